"""Ray Serve on two nodes of this machine: `make cluster`. One story in this order, the last test ends a node."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import serve
from ray.cluster_utils import Cluster

from service.cluster import application

pytestmark = pytest.mark.filterwarnings("default")

PORT = 18231
CLASSIFY = "/v1/models/fashion-mnist/classify"
RETRYABLE = (429, 500, 502, 503)
"""500 is Ray's word for a replica that died with the request; a request that only reads is safe to send again."""
CALLERS = 6


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[Cluster]:
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    variables = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ray.init(address=nodes.address, runtime_env={"env_vars": variables}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, proxy_location="HeadOnly")
    deploy(root)
    yield nodes
    serve.shutdown()
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def picture(root: Path) -> bytes:
    return (root / "docs/images/ankle-boot.png").read_bytes()


def deploy(root: Path, **arguments: Any) -> None:
    given = {"repository": str(root / "models"), "replicas": 3, "max_replicas": 3, "cpus": 0.9, "access_log": "off"}
    serve.run(application(given | arguments), name="deep-delta", route_prefix="/")


def ask(path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    url = f"http://127.0.0.1:{PORT}{path}"
    request = urllib.request.Request(url, body, {"Content-Type": "image/png"} | (headers or {}))
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def load(picture: bytes) -> Iterator[Counter[int]]:
    """Ask without a pause, and count the statuses of the answers; 0 is no answer."""
    seen: Counter[int] = Counter()
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                ask(CLASSIFY, picture)
                seen[200] += 1
            except urllib.error.HTTPError as error:
                seen[error.code] += 1
            except OSError:
                seen[0] += 1

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for(what: str, true: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


def running() -> int:
    (deployment,) = serve.status().applications["deep-delta"].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


def test_it_answers_as_one_service_does(cluster: Cluster, picture: bytes) -> None:
    assert ask(CLASSIFY, picture)["predictions"][0]["label"] == "Ankle boot"
    beta = ask("/v1/models/fashion-mnist/gates", picture)["results"][0]["tensors"]["beta"]
    assert beta["shape"] == [6, 49]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask("/v1/models/nobody/classify", picture)


def test_an_update_rolls_without_a_lost_request(cluster: Cluster, root: Path, picture: bytes) -> None:
    with load(picture) as seen:
        deploy(root, batch_rows=8)
    assert set(seen) == {200}
    assert ask("/v2/models/fashion-mnist/config")["parameters"]["batch_rows"] is not None


def test_a_header_opens_the_model_on_its_replica(cluster: Cluster, root: Path, picture: bytes) -> None:
    deploy(root, control="explicit", startup_models="none", models=1)
    with pytest.raises(urllib.error.HTTPError, match=r"404|503"):
        ask(CLASSIFY, picture)
    header = {"serve_multiplexed_model_id": "fashion-mnist"}
    for _ in range(5):
        assert ask(CLASSIFY, picture, header)["predictions"][0]["label"] == "Ankle boot"


def test_a_node_dies_under_load(cluster: Cluster, root: Path, picture: bytes) -> None:
    deploy(root)
    wait_for("three replicas", lambda: running() == 3)
    (worker,) = cluster.worker_nodes
    with load(picture) as seen:
        cluster.remove_node(worker, allow_graceful=False)
        before = seen[200]
        wait_for("the loss is noticed", lambda: running() < 3)
        time.sleep(3)
    assert seen[200] > before
    lost = {status: count for status, count in seen.items() if status != 200}
    assert set(lost) <= set(RETRYABLE)
    assert sum(lost.values()) <= CALLERS
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    wait_for("three replicas again", lambda: running() == 3)
