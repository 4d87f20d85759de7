"""Live statistics and finished audits over the API."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.reference import add_reference
from service.bundle import read_bundle, write_checksums
from service.gates.live.histograms import EDGES, count_gates
from tests.service.conftest import Client
from tests.service.tiny_bundle import SITES, TOKENS, BundleMaker

STATS = "/v1/models/tiny/gates/stats"


def infer(client: Client, pixels: np.ndarray) -> None:
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "FP32", "data": pixels.ravel().tolist()}
    client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).raise_for_status()


def images(pixels: np.ndarray, rows: int) -> np.ndarray:
    noise = np.random.default_rng(rows).standard_normal((rows, *pixels.shape[1:]))
    return (pixels + noise).astype(np.float32)


def beta(client: Client, pixels: np.ndarray) -> np.ndarray:
    """Return the gates (row, site, position) that a trace tells."""
    results = []
    for part in np.split(pixels, range(8, len(pixels), 8)):
        tensor = {"shape": list(part.shape), "data": part.ravel().tolist()}
        answer = client.post("/v1/models/tiny/gates", json={"inputs": {"tensor": tensor}, "quantities": ["beta"]})
        results += answer.raise_for_status().json()["results"]
    return np.array([result["tensors"]["beta"]["data"] for result in results], np.float32)


def reference(bundle: Path, beta: np.ndarray, threshold: float) -> dict[str, Any]:
    return {
        "schema": "ddl.gates.reference/1",
        "id": "made",
        "created": "2026-01-01",
        "weights_sha256": read_bundle(bundle).manifest.weights_sha256,
        "dataset": {"name": "noise", "sha256": "0" * 64, "sequences": len(beta), "tokens": len(beta) * TOKENS},
        "sites": list(SITES),
        "counts": count_gates(np.ascontiguousarray(beta.transpose(1, 0, 2)).reshape(len(SITES), -1)).fine.tolist(),
        "windows": [10],
        "thresholds": [[threshold] * len(SITES)],
    }


def test_statistics_are_those_of_the_traces_of_the_same_inputs(
    serve: Callable[..., Client], pixels: np.ndarray
) -> None:
    client, many = serve(gates_live_share=1.0), images(pixels, 7)
    empty = client.get(STATS).json()
    assert (empty["runs"], empty["since"], empty["history"]) == (0, None, [])
    assert empty["sites"][0]["mean"] is None
    infer(client, many[:3])
    infer(client, many[3:])
    traced = beta(client, many)
    stats = client.get(STATS, params={"window": "24h"}).json()
    assert (stats["runs"], stats["sequences"], stats["tokens"]) == (2, 7, 7 * TOKENS)
    for index, site in enumerate(stats["sites"]):
        values = traced[:, index].ravel()
        assert site["name"] == SITES[index]
        assert site["histogram"] == np.histogram(values, EDGES)[0].tolist()
        assert site["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert site["count"] == values.size
        assert sum(site["regimes"]) == pytest.approx(1.0)
    assert stats["status"] == "no_reference"
    assert [slot["sequences"] for slot in stats["history"]] == [7]


def test_traces_and_replayed_samples_are_no_traffic(serve: Callable[..., Client], pixels: np.ndarray) -> None:
    client = serve(gates_live_share=1.0)
    beta(client, pixels)
    assert client.get(STATS).json()["runs"] == 0


@pytest.mark.parametrize("query", ["window=2d", "window=", "version=7", "window=1h&version=x"])
def test_what_there_is_not(client: Client, query: str) -> None:
    assert client.get(f"{STATS}?{query}").status_code in (404, 422)


def test_no_statistics_without_a_share(serve: Callable[..., Client]) -> None:
    client = serve(gates_live_share=0.0)
    answer = client.get(STATS)
    assert answer.status_code == 501
    assert answer.json()["type"].endswith("capture-unavailable")
    assert "ddl_gate_beta_bucket" not in client.get("/metrics").text


def test_drift_from_the_reference_of_the_bundle(
    serve: Callable[..., Client], maker: BundleMaker, tmp_path: Path, pixels: np.ndarray
) -> None:
    maker.write(tmp_path / "models")
    bundle = next((tmp_path / "models").glob("tiny/*/manifest.json")).parent
    many = images(pixels, 40)
    probe = serve(repository=tmp_path / "models")
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(reference(bundle, beta(probe, many), 0.3)), encoding="utf-8")
    add_reference(bundle, file)
    client = serve(repository=tmp_path / "models", gates_live_share=1.0)
    infer(client, many[:4])
    meta = client.get("/v1/models/tiny/gates/meta").json()["reference"]
    assert (meta["id"], meta["dataset"]) == ("made", "noise")
    assert meta["histograms"] == json.loads(file.read_text(encoding="utf-8"))["counts"]
    few = client.get(STATS).json()
    assert few["status"] == "too_few"
    assert few["reference"]["id"] == "made"
    assert "4 sequences are too few" in few["message"]
    infer(client, many[4:])
    alike = client.get(STATS).json()
    assert alike["status"] == "ok"
    assert max(site["w1"] for site in alike["sites"]) == pytest.approx(0.0, abs=1e-6)
    infer(client, np.full_like(images(pixels, 200), 9.0))
    moved = client.get(STATS).json()
    assert moved["status"] in ("watch", "drift")
    assert "sites moved by more than normal; largest" in moved["message"]
    assert time.strftime("%Y-") in moved["status_since"]
    scraped = client.get("/metrics").text
    for site in moved["sites"]:
        labels = f'layer="{site["layer"]}",model="tiny",sublayer="{site["sublayer"]}"'
        line = next(text for text in scraped.splitlines() if text.startswith(f"ddl_gate_drift_w1{{{labels}"))
        assert float(line.rsplit(" ", 1)[1]) == pytest.approx(site["w1"])
    assert f'status="{moved["status"]}",version="1"}} 1.0' in scraped


def test_a_reference_of_other_weights_keeps_the_version_out(
    serve: Callable[..., Client], maker: BundleMaker, tmp_path: Path, pixels: np.ndarray
) -> None:
    maker.write(tmp_path / "models")
    bundle = next((tmp_path / "models").glob("tiny/*/manifest.json")).parent
    content = reference(bundle, np.ones((40, len(SITES), TOKENS), np.float32), 0.3) | {"weights_sha256": "f" * 64}
    (bundle / "reference.json").write_text(json.dumps(content), encoding="utf-8")
    write_checksums(bundle)
    client = serve(repository=tmp_path / "models")
    answer = client.get(STATS)
    assert answer.status_code == 503
    reasons = client.post("/v2/repository/index", json={}).json()
    assert "reference.json was made of other weights" in reasons[0]["reason"]
    assert str(tmp_path) not in reasons[0]["reason"]


def test_a_scrape_of_many_sites_is_quick_and_as_large_as_documented() -> None:
    from service.gates.live.budget import Budget
    from service.gates.live.figures import gate_figures
    from service.gates.live.live import LiveGates
    from service.metrics import Metrics
    from tests.service.gates.live_gates import gates

    live, metrics = LiveGates(gates(24), None, Budget(1.0)), Metrics()
    live.take({name: np.ones((2, 8), np.float32) for name in gates(24).outputs["beta"]}, 2, 0.0)
    metrics.gates.watch_live(lambda: [gate_figures("m", "1", live)])
    text = metrics.render("text/plain")[0].decode()
    assert text.count("\nddl_gate_beta_") == 24 * (20 + 1 + 2)
    seconds = []
    for _ in range(5):
        start = time.thread_time()  # what others do on the machine is not the scrape's
        metrics.render("text/plain")
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.05


def test_finished_audits_and_their_files(serve: Callable[..., Client], tmp_path: Path) -> None:
    folder = tmp_path / "audits"
    summary = {"title": "T", "created": "2026", "dataset": "d", "arms": ["a", "b"], "runs": 6, "settled": False}
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "audit.json").write_text(json.dumps({"summary": summary}), encoding="utf-8")
    (folder / "one" / "report.html").write_text("<!doctype html>", encoding="utf-8")
    (folder / "one" / "secret.txt").write_text("no", encoding="utf-8")
    (folder / "two" / "audit.json").write_text("{", encoding="utf-8")
    (tmp_path / "table.parquet").write_bytes(b"outside")
    (folder / "one" / "table.parquet").symlink_to(tmp_path / "table.parquet")
    client = serve(audits=folder)
    files = ["audit.json", "report.html", "table.parquet"]
    assert client.get("/v1/gates/audits").json() == {"audits": [{"id": "one", **summary, "files": files}]}
    report = client.get("/v1/gates/audits/one/report.html")
    assert report.text == "<!doctype html>"
    assert "default-src 'none'" in report.headers["content-security-policy"]
    for path in ("one/secret.txt", "one/table.parquet", "three/report.html", "..%2f/report.html", "one/%2e%2e"):
        assert client.get(f"/v1/gates/audits/{path}").status_code == 404
    problem = client.get("/v1/gates/audits/one/secret.txt").json()
    assert problem["type"] == "urn:ddl:problem:unknown-audit"
    shutil.rmtree(folder)
    assert client.get("/v1/gates/audits").json() == {"audits": []}


def test_convolutions_have_statistics_and_places(serve: Callable[..., Client], root: Path) -> None:
    client = serve(repository=root / "models", gates_live_share=1.0)
    path = "/v1/models/fashion-mnist-resnet/gates"
    stats, meta = client.get(f"{path}/stats").json(), client.get(f"{path}/meta").json()
    assert {site["sublayer"] for site in stats["sites"]} == {"conv"}
    assert (meta["value_grid"], meta["value_channels"], meta["reference"]) == ([28, 28], 784, None)
    other = client.get("/v1/models/fashion-mnist/gates/meta").json()
    assert other["value_grid"] is None
