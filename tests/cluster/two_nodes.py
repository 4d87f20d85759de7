"""Ray Serve on two nodes of this machine: `make cluster`. One story in this order, the last test ends a node."""

import http.client
import json
import os
import re
import shutil
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
JSON = {"Content-Type": "application/json"}
STORY = {"model": "words", "prompt": "a delta rule", "temperature": 0, "ignore_eos": True}
RETRYABLE = (429, 500, 502, 503)
"""500 is Ray's word for a replica that died with the request; a request that only reads is safe to send again."""
CALLERS = 6


@pytest.fixture(scope="module")
def repository(root: Path, text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of a classifier and a language model for texts longer than those that it was trained on."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(root / "models/fashion-mnist", folder / "fashion-mnist")
    shutil.copytree(text_bundle, folder / "words/1")
    (folder / "words/config.toml").write_text("[generation]\nslot_tokens = 2048\n")
    return folder


@pytest.fixture(scope="module")
def cluster(root: Path, repository: Path) -> Iterator[Cluster]:
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    variables = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    ray.init(address=nodes.address, runtime_env={"env_vars": variables}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, proxy_location="HeadOnly")
    deploy(repository)
    yield nodes
    serve.shutdown()
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def picture(root: Path) -> bytes:
    return (root / "docs/images/ankle-boot.png").read_bytes()


def deploy(repository: Path, **arguments: Any) -> None:
    given = {"repository": str(repository), "replicas": 3, "max_replicas": 3, "cpus": 0.9, "access_log": "off"}
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


@contextmanager
def stream(tokens: int) -> Iterator[http.client.HTTPResponse]:
    """Ask for a streamed text; who has read enough of it hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    body = json.dumps(STORY | {"max_tokens": tokens, "stream": True})
    connection.request("POST", "/v1/completions", body, JSON)
    answer = connection.getresponse()
    try:
        yield answer
    finally:
        answer.close()
        connection.close()


def events(tokens: int) -> list[tuple[float, dict[str, Any]]]:
    """Read a streamed text; each event with its seconds since the request."""
    began = time.monotonic()
    with stream(tokens) as answer:
        return [(time.monotonic() - began, json.loads(line[6:])) for line in answer if line.startswith(b"data: {")]


def cancelled() -> bool:
    """Say whether the replica that answers knows of an answer that was called off."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(r'^ddl_generation_answers_total{.*outcome="cancelled".*} (\S+)$', text, re.MULTILINE)
    return found is not None and float(found[1]) > 0


def test_a_text_comes_while_it_grows(cluster: Cluster) -> None:
    whole = ask("/v1/completions", json.dumps(STORY | {"max_tokens": 400}).encode(), JSON)
    came = events(400)
    texts = [event["choices"][0]["text"] for _, event in came if event["choices"]]
    assert "".join(texts) == whole["choices"][0]["text"]
    assert len(texts) > 100
    assert came[0][0] < came[-1][0] / 4


def test_a_text_has_its_gates(cluster: Cluster) -> None:
    answer = ask("/v1/models/words/gates", json.dumps({"inputs": {"prompt": "a delta rule"}}).encode(), JSON)
    assert answer["results"][0]["tensors"]["beta"]["shape"][0] == 2


def test_a_reader_who_leaves_ends_the_text(cluster: Cluster) -> None:
    with stream(2000) as answer:
        answer.readline()
    wait_for("a replica called the answer off", cancelled, 30)


def test_more_replicas_come_when_there_is_more_to_do(cluster: Cluster, repository: Path, picture: bytes) -> None:
    deploy(repository, replicas=1, max_replicas=2, ongoing=1, grow_seconds=1, shrink_seconds=5)
    wait_for("one replica", lambda: running() == 1)
    with load(picture) as seen:
        wait_for("two replicas", lambda: running() == 2)
    assert set(seen) == {200}
    wait_for("one replica again", lambda: running() == 1)


def test_an_update_rolls_without_a_lost_request(cluster: Cluster, repository: Path, picture: bytes) -> None:
    with load(picture) as seen:
        deploy(repository, batch_rows=8)
    assert set(seen) == {200}
    assert ask("/v2/models/fashion-mnist/config")["parameters"]["batch_rows"] is not None


def test_a_header_opens_the_model_on_its_replica(cluster: Cluster, repository: Path, picture: bytes) -> None:
    deploy(repository, control="explicit", startup_models="none", models=1)
    with pytest.raises(urllib.error.HTTPError, match=r"404|503"):
        ask(CLASSIFY, picture)
    header = {"serve_multiplexed_model_id": "fashion-mnist"}
    for _ in range(5):
        assert ask(CLASSIFY, picture, header)["predictions"][0]["label"] == "Ankle boot"


def test_a_node_dies_under_load(cluster: Cluster, repository: Path, picture: bytes) -> None:
    deploy(repository)
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
