from pathlib import Path

import numpy as np
import onnx
import pytest

from service.bundle import Golden, Graph, read_bundle
from service.errors import BundleDisagrees, BundleInvalid, ModelFailed, ProviderUnavailable
from service.runtime.cores import usable_cores
from service.runtime.golden import difference, replay
from service.runtime.kernel_library import plain
from service.runtime.session import CPU, CUDA, OrtSession, check_graph
from tests.service.tiny_bundle import BundleMaker, output_shapes, reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, maker: BundleMaker) -> Path:
    return maker.write(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def session(folder: Path) -> OrtSession:
    return OrtSession(folder / "graphs" / "model.onnx", providers=[CPU], threads=1, kernel=plain("test"))


def test_outputs_are_those_of_the_independent_network(session: OrtSession, maker: BundleMaker) -> None:
    pixels = np.random.default_rng(11).standard_normal((5, 1, 8, 12)).astype(np.float32)
    expected = reference(maker.weights, pixels)
    answered = session.run({"pixels": pixels}, list(output_shapes()))
    for name in output_shapes():
        assert answered[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def test_tensors_are_reported_as_the_graph_declares_them(session: OrtSession) -> None:
    assert [(i.name, i.datatype, i.shape) for i in session.inputs] == [("pixels", "FP32", (-1, 1, 8, 12))]
    assert {o.name: o.shape for o in session.outputs}["0.mlp/v"] == (-1, 6, 2)


def test_a_run_that_fails_is_an_error_of_ours(session: OrtSession) -> None:
    with pytest.raises(ModelFailed, match="could not be run"):
        session.run({"pixels": np.zeros((1, 1, 8, 13), np.float32)}, ["probabilities"])
    with pytest.raises(ModelFailed):
        session.run({"nothing": np.zeros((1, 1, 8, 12), np.float32)}, ["probabilities"])


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleInvalid, match="cannot be opened"):
        OrtSession(tmp_path / "model.onnx", providers=[CPU], threads=1, kernel=plain("test"))


def test_a_provider_that_is_not_there_is_refused_and_not_replaced(folder: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="CUDAExecutionProvider"):
        OrtSession(folder / "graphs" / "model.onnx", providers=[CUDA, CPU], threads=1, kernel=plain("test"))


def graph_of(folder: Path) -> dict[str, object]:
    return read_bundle(folder).manifest.graph.model_dump()


def test_the_manifest_agrees_with_its_graph(session: OrtSession, folder: Path) -> None:
    check_graph(session, read_bundle(folder).manifest.graph, folder)


@pytest.mark.parametrize(
    ("kind", "index", "change"),
    [
        ("inputs", 0, {"name": "image"}),
        ("inputs", 0, {"datatype": "INT64"}),
        ("inputs", 0, {"shape": (-1, 1, 8, 13)}),
        ("inputs", 0, {"shape": (-1, 1, 8, -1)}),
        ("inputs", 0, {"shape": (-1, 8, 12)}),
        ("outputs", 0, {"shape": (-1, 5)}),
        ("outputs", 1, {"name": "scores"}),
        ("outputs", 1, {"datatype": "INT64"}),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(
    session: OrtSession, folder: Path, kind: str, index: int, change: dict[str, object]
) -> None:
    graph = graph_of(folder)
    graph[kind][index].update(change)  # type: ignore[index]
    with pytest.raises(BundleInvalid, match=r"is not in both|in the graph"):
        check_graph(session, Graph.model_validate(graph), folder)


def test_an_output_missing_from_the_manifest_is_refused(session: OrtSession, folder: Path) -> None:
    graph = graph_of(folder)
    graph["outputs"] = graph["outputs"][:-1]  # type: ignore[index]
    with pytest.raises(BundleInvalid, match=r"0\.mlp/k_raw_norm"):
        check_graph(session, Graph.model_validate(graph), folder)


@pytest.mark.parametrize(
    ("actual", "expected", "wanted"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.5], [0.25], 0.25),
        ([110.0], [100.0], 0.1),
        ([np.nan], [np.nan], 0.0),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.nan], np.inf),
        ([np.inf], [np.inf], 0.0),
        ([np.inf], [-np.inf], np.inf),
        ([np.inf], [1.0], np.inf),
        ([1.0], [np.inf], np.inf),
        ([], [], 0.0),
    ],
)
def test_difference_takes_nothing_that_is_not_a_number_for_agreement(
    actual: list[float], expected: list[float], wanted: float
) -> None:
    assert difference(np.array(actual, np.float32), np.array(expected, np.float32)) == pytest.approx(wanted, rel=1e-6)


def test_replay_reports_the_largest_difference(session: OrtSession, folder: Path) -> None:
    golden = Golden(file="x", samples=3, tolerance=1e-4)
    assert 0 < replay(session, folder / "golden" / "samples.safetensors", golden) < 1e-4


def test_replay_refuses_numbers_beyond_the_tolerance(session: OrtSession, folder: Path) -> None:
    golden = Golden(file="x", samples=3, tolerance=1e-12)
    with pytest.raises(BundleDisagrees, match="allowed are 1e-12"):
        replay(session, folder / "golden" / "samples.safetensors", golden)


def test_replay_refuses_a_graph_that_answers_nan(tmp_path: Path, maker: BundleMaker) -> None:
    def poison(model: onnx.ModelProto) -> None:
        bias = next(t for t in model.graph.initializer if t.name == "head/bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), "head/bias"))

    folder = maker.write(tmp_path, graph=poison)
    session = OrtSession(folder / "graphs" / "model.onnx", providers=[CPU], threads=1, kernel=plain("test"))
    with pytest.raises(BundleDisagrees, match="differs by inf"):
        replay(session, folder / "golden" / "samples.safetensors", Golden(file="x", samples=3, tolerance=1e-4))


def test_cores_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(tmp_path) == 8
    for content, cores in (("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)):
        (tmp_path / "cpu.max").write_text(content + "\n")
        assert usable_cores(tmp_path) == cores


def test_cores_of_the_older_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("-1", 8), ("150000", 2)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
        assert usable_cores(tmp_path) == cores
