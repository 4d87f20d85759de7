"""Low precision: what becomes smaller and what does not, what it costs, when it is refused, and that it still runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from ddl_model import ImageClassifier, ImageClassifierConfig
from ddl_model.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from ddl_model.training import fashion_mnist
from ddl_model.training.errors import DataError
from ddl_model.training.image_data import ImageSet, normalise
from export import precision_check
from export.__main__ import main
from export.evaluate import Limits, evaluate
from export.golden import read_steps
from export.graph import PIXELS, export_graph
from export.image_bundle import ImageBundle
from export.kind import HeldOut
from export.language.held_out import read_texts
from export.ops.contract import DOMAIN
from export.pipeline import ExportError, export_bundle
from export.precision import quantise
from export.precision_check import Lowering, PrecisionName
from export.trace import ExportedGraph
from export.verify import PLAIN, answer
from service.bundle import LanguageModelling, PrecisionCost, read_bundle
from service.runtime.golden import replay
from service.runtime.kernel_library import choose_kernel
from service.runtime.session import CPU, OrtSession
from tests.export.text_checkpoint import CONFIG, TEXT, VOCABULARY
from tests.model_fixtures import SMALL_SHA256, lively


@pytest.fixture(scope="module")
def classifier_graph(tiny_model: ImageClassifier) -> ExportedGraph:
    return export_graph(tiny_model)


@pytest.fixture(scope="module")
def classifier_checkpoint(tiny_model: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = torch.randn(8, 1, 18, 15, generator=torch.Generator().manual_seed(2))
    samples = {"pixels": pixels, "labels": torch.arange(8) % 3}
    checkpoint = Checkpoint(tiny_model.state_dict(), tiny_model.config, {}, samples=samples)
    return save_checkpoint(tmp_path_factory.mktemp("run"), 0, checkpoint)


def open_model(model: ir.Model, folder: Path) -> OrtSession:
    ir.save(model, folder / "graph.onnx")
    return OrtSession(folder / "graph.onnx", providers=[CPU], threads=1, kernel=PLAIN)


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("bits", [8, 4])
def test_products_become_smaller_and_everything_else_stays(
    traced: dict[str, ExportedGraph], bits: int, tmp_path: Path
) -> None:
    before = ir.serde.serialize_model(traced["model"].model)
    quantised = quantise(traced["model"], bits)
    ir.save(quantised.model, tmp_path / "graph.onnx")
    after = onnx.load(tmp_path / "graph.onnx")
    onnx.checker.check_model(after)
    products = [node for node in after.graph.node if node.op_type == "MatMulNBits"]
    # query, key, value, out; expand, out; the head.
    assert [ir.serde.deserialize_node(node).attributes["bits"].as_int() for node in products] == [*[bits] * 6, 8]
    # The hidden layers of two gates stay as they are.
    assert sum(node.op_type in ("MatMul", "Gemm") for node in after.graph.node) == 2
    own = [[node for node in model.graph.node if node.domain == DOMAIN] for model in (before, after)]
    assert own[0] == own[1]
    assert after.functions == before.functions
    weights, small = initializers(before), initializers(after)
    for name in (name for node in own[1] for name in node.input if name in small):
        assert small[name].dtype == np.float32
        assert np.array_equal(small[name], weights[name])
    assert quantised.custom_ops == traced["model"].custom_ops


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_are_rounded_to_the_nearest_of_their_scale(traced: dict[str, ExportedGraph], bits: int) -> None:
    """Written out by hand from the operator's description, for the output projection of attention."""
    before = initializers(ir.serde.serialize_model(traced["model"].model))
    after = ir.serde.serialize_model(quantise(traced["model"], bits).model)
    node = next(node for node in after.graph.node if node.op_type == "MatMulNBits")
    weight = before[node.input[1].rpartition(f"_Q{bits}")[0]]
    packed, scales = (initializers(after)[name] for name in node.input[1:3])
    columns, blocks, _ = packed.shape
    levels = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(columns, blocks, -1)
    rounded = (levels.astype(np.float32) - 2 ** (bits - 1)) * scales.reshape(columns, blocks, 1)
    rounded = rounded.reshape(columns, -1)[:, : len(weight)].T
    step = np.abs(scales).max()
    assert 0 < np.abs(rounded - weight).max() <= step  # the largest value of a block may lie one step outside
    assert np.abs(rounded - weight).mean() < step / 3


def test_an_embedding_that_is_the_head_reads_the_same_bytes(traced: dict[str, ExportedGraph], tmp_path: Path) -> None:
    model = ir.serde.serialize_model(quantise(traced["model"], 4).model)
    gather = next(node for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    head = [node for node in model.graph.node if node.op_type == "MatMulNBits"][-1]
    tensors = initializers(model)
    assert tensors[gather.input[0]].tobytes() == tensors[head.input[1]].tobytes()
    assert tensors[gather.input[2]].tobytes() == tensors[head.input[2]].tobytes()
    embedding = initializers(ir.serde.serialize_model(traced["model"].model))["model.embedding.weight"]
    assert "model.embedding.weight" not in tensors
    model.graph.output.append(onnx.helper.make_tensor_value_info(gather.output[0], onnx.TensorProto.FLOAT, None))
    session = open_model(ir.serde.deserialize_model(model), tmp_path)
    ids = np.arange(VOCABULARY).reshape(2, -1)
    rows = session.run({"input_ids": ids}, [gather.output[0]])[gather.output[0]]
    assert 0 < np.abs(rows - embedding[ids]).max() <= np.abs(tensors[head.input[2]]).max()


def test_an_answer_does_not_depend_on_its_batch(classifier_graph: ExportedGraph, tmp_path: Path) -> None:
    """A scale for the whole batch would let a loud neighbour drown a quiet image."""
    session = open_model(quantise(classifier_graph, 8).model, tmp_path)
    quiet = np.random.default_rng(0).standard_normal((1, 1, 18, 15)).astype(np.float32)
    alone = session.run({PIXELS: quiet}, ["logits"])["logits"][0]
    beside = session.run({PIXELS: np.concatenate([quiet, 100 * quiet])}, ["logits"])["logits"][0]
    np.testing.assert_allclose(beside, alone, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_bundle_of_integers(
    precision: PrecisionName,
    text_checkpoint: Path,
    text_bundle: Path,
    traced: dict[str, ExportedGraph],
    kernel_library: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "models" / "words" / "1"
    report = export_bundle(text_checkpoint, folder, how=Lowering(precision, accept_loss=True))
    assert report.agrees
    bundle = read_bundle(folder)
    written = bundle.manifest.precision
    assert written is not None
    assert written.kind == precision
    assert written.bytes == sum(path.stat().st_size for path in (folder / "graphs").iterdir())
    assert written.float32_bytes == 4 * sum(p.numel() for p in read_checkpoint(text_checkpoint).weights.values())
    sizes = [(place / "graphs" / "weights.bin").stat().st_size for place in (text_bundle, folder)]
    assert sizes[1] < 0.6 * sizes[0]
    assert written.cost.data == "the checkpoint's own 59 tokens"
    assert written.cost.metrics == {}
    assert 0 < written.cost.divergence < 1
    for name in ("PARITY.md", "MODEL_CARD.md"):
        assert f"Weights are {precision}: {written.bytes:,} bytes on disk" in (folder / name).read_text()
    assert "| float activations |" in (folder / "PARITY.md").read_text()
    assert sorted(path.name for path in (folder / "graphs").iterdir()) == ["model.onnx", "step.onnx", "weights.bin"]
    custom_ops = bundle.manifest.graph.custom_ops
    kernel = choose_kernel(str(kernel_library), custom_ops, CPU)
    for choice in (PLAIN, kernel):
        session = OrtSession(bundle.graph_path, providers=[CPU], threads=1, kernel=choice)
        assert session.kernel.path == choice.path
        assert replay(session, bundle.golden_path, bundle.manifest.golden) <= bundle.manifest.golden.tolerance
    assert isinstance(bundle.manifest.task, LanguageModelling)
    assert bundle.manifest.task.step is not None
    script = read_steps(folder, bundle.manifest.task.step)
    plain, fused = (answer(folder / "graphs" / "step.onnx", script, choice) for choice in (PLAIN, kernel))
    for one, other, run in zip(plain, fused, script.runs, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], run.outputs[name].numpy(), atol=1e-6)
            np.testing.assert_allclose(one[name], other[name], atol=bundle.manifest.task.step.golden.tolerance)


def test_a_bundle_of_halves(text_checkpoint: Path, kernel_library: Path, tmp_path: Path) -> None:
    """The cache is float16 and everything a caller reads is float32."""
    folder = tmp_path / "models" / "words" / "1"
    assert export_bundle(text_checkpoint, folder, how=Lowering("float16")).agrees
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    assert manifest.precision is not None
    assert manifest.precision.cost.agreement > 0.95
    assert manifest.precision.cost.divergence < 1e-3
    assert isinstance(manifest.task, LanguageModelling)
    assert manifest.task.step is not None
    assert {tensor.datatype for tensor in manifest.task.step.cache} == {"FP16"}
    for graph in manifest.graphs.values():
        assert {op.datatype for op in graph.custom_ops} == {"FP16"}
        answers = [spec for spec in graph.outputs if not spec.name.startswith("present/")]
        assert {spec.datatype for spec in answers} == {"FP32"}
    stored = initializers(onnx.load(bundle.graph_path))
    assert stored["model.embedding.weight"].dtype == np.float16
    for choice in (PLAIN, choose_kernel(str(kernel_library), manifest.graph.custom_ops, CPU)):
        session = OrtSession(bundle.graph_path, providers=[CPU], threads=1, kernel=choice)
        assert session.kernel.path == choice.path
        assert replay(session, bundle.golden_path, manifest.golden) <= manifest.golden.tolerance < 0.2
    script = read_steps(folder, manifest.task.step)
    for outputs, run in zip(answer(folder / "graphs" / "step.onnx", script), script.runs, strict=True):
        for name, array in outputs.items():
            np.testing.assert_allclose(array, run.outputs[name].numpy(), atol=1e-6)


def test_a_classifier_in_float16_takes_and_gives_float32(
    tiny_model: ImageClassifier, classifier_checkpoint: Path
) -> None:
    kind = ImageBundle(tiny_model, read_checkpoint(classifier_checkpoint)).in_half()
    assert {parameter.dtype for parameter in kind.model.parameters()} == {torch.float16}
    expected = ImageBundle(tiny_model, kind.checkpoint).scripts()["model"].runs[0].outputs
    for name, tensor in kind.scripts()["model"].runs[0].outputs.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], atol=2e-2, rtol=2e-2)


def test_what_costs_too_much_is_refused_with_the_figures_and_the_flags(
    classifier_checkpoint: Path,
    classifier_graph: ExportedGraph,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ImageBundle, "graphs", lambda self: {"model": classifier_graph})
    bundle = tmp_path / "models" / "tiny" / "1"
    command = [str(classifier_checkpoint), str(bundle), "--precision", "int4"]
    assert main([*command, "--max-loss-increase", "1e-9"]) == 1
    said = capsys.readouterr().err
    assert "ddl-export: int4 costs too much: the answers diverge by 0." in said
    assert "nats, at most 1e-09 are allowed (--max-loss-increase). Measured on the checkpoint's own 8 images." in said
    assert "accept it with --accept-loss; no bundle was written" in said
    assert not list(bundle.parent.iterdir())
    assert main([*command, "--max-loss-increase", "1e-9", "--accept-loss", "--evaluate-limit", "5"]) == 0
    assert "on the checkpoint's own 5 images" in capsys.readouterr().out
    precision = read_bundle(bundle).manifest.precision
    assert precision is not None
    assert (precision.cost.count, precision.cost.unit) == (5, "images")
    monkeypatch.setattr(precision_check, "evaluate", lambda *_: None)
    assert main([*command, "--force", "--accept-loss"]) == 1
    assert "in int4 it answers with values that are not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--evaluate-on", "x"], "choose one with --precision"),
        (["--accept-loss"], "choose one with --precision"),
        (["--precision", "int8", "--evaluate-limit", "0"], "must be a whole number from 1, got '0'"),
        (["--precision", "int2"], "invalid choice: 'int2'"),
    ],
)
def test_flags_that_make_no_sense(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["a", "b", *flags])
    assert message in capsys.readouterr().err


def test_data_that_are_not_there_are_named_before_anything_is_traced(
    classifier_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(ImageBundle, "graphs")
    with pytest.raises(ExportError, match="train-images-idx3-ubyte was not found in"):
        export_bundle(classifier_checkpoint, tmp_path / "models" / "x" / "1", how=Lowering("int8", tmp_path))


def held_out(labels: torch.Tensor | None, token_bytes: torch.Tensor | None = None) -> HeldOut:
    inputs = torch.zeros(2, 2, dtype=torch.int64)
    return HeldOut("four tokens", "tokens", 3, [lambda: (inputs, labels)], token_bytes)


def cost_of(given: Sequence[Any], wanted: Sequence[Any], rows: HeldOut) -> PrecisionCost | None:
    session = SimpleNamespace(run=lambda feeds, names: {"logits": np.array(given, np.float32)})
    kind = SimpleNamespace(input="ids", logits=lambda inputs: torch.tensor(wanted))
    return evaluate(session, kind, rows)  # type: ignore[arg-type]


def test_the_cost_by_hand() -> None:
    """Answers are over three tokens; given ones are uniform, wanted ones certain but for the last."""
    certain, even = [50.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    given, wanted = [[even, even], [even, [0.0, 1.0, 0.0]]], [[certain, certain], [certain, even]]
    labels = torch.tensor([[0, 0], [2, -100]])
    cost = cost_of(given, wanted, held_out(labels, torch.tensor([1, 1, 2])))
    assert cost is not None
    assert (cost.count, cost.agreement) == (3, 1.0)  # the first of equals is the most probable
    assert math.isclose(cost.divergence, math.log(3), rel_tol=1e-6)
    assert math.isclose(cost.metrics["loss"], math.log(3), rel_tol=1e-6)
    assert math.isclose(cost.metrics["bits_per_byte"], 3 * math.log2(3) / 4, rel_tol=1e-6)
    assert math.isclose(cost.float32_metrics["loss"], 50 / 3, rel_tol=1e-6)
    assert math.isclose(cost.float32_metrics["accuracy"], 2 / 3)
    assert math.isclose(cost.loss_increase, math.log(3) - 50 / 3, rel_tol=1e-6)


def test_without_labels_the_divergence_stands_for_the_loss() -> None:
    given, wanted = [[[0.0, 1.0, 0.0]] * 2] * 2, [[[1.0, 0.0, 0.0]] * 2] * 2
    cost = cost_of(given, wanted, held_out(None))
    assert cost is not None
    assert (cost.count, cost.agreement, cost.metrics) == (4, 0.0, {})
    expected = torch.tensor([1.0, 0.0, 0.0]).softmax(0)
    divergence = float((expected[0] - expected[1]) * 1.0)
    assert math.isclose(cost.loss_increase, divergence, rel_tol=1e-5)
    excess = Limits(max_loss_increase=divergence - 0.01, min_agreement=0.5).excess(cost)
    assert excess is not None
    assert "the answers diverge by 0.3" in excess
    assert "0.0% of the answers stay the same, at least 50.0% must (--min-agreement)" in excess
    assert Limits(max_loss_increase=divergence + 0.01, min_agreement=0.0).excess(cost) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_are_not_finite_have_no_cost(value: float) -> None:
    given = [[[value, 1.0, 0.0]] * 2] * 2
    assert cost_of(given, [[[1.0, 0.0, 0.0]] * 2] * 2, held_out(None)) is None


def test_images_are_the_test_set_of_a_folder(
    small_data_folder: Path, small_data: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ImageClassifierConfig(labels=fashion_mnist.LABELS, stem_planes=(4, 4), width=8, layers=1, heads=2)
    kind = ImageBundle(lively(ImageClassifier(config), seed=0), Checkpoint({}, config, {}))
    load = fashion_mnist.load
    monkeypatch.setattr(fashion_mnist, "load", lambda folder: load(folder, SMALL_SHA256))
    found = kind.held_out(small_data_folder, 30)
    assert (found.data, found.unit, found.classes) == ("30 test images of fashion-mnist-small", "images", 10)
    ((pixels, labels),) = [batch() for batch in found.batches]
    assert labels is not None
    assert torch.equal(pixels, normalise(small_data[1].images[:30], 0.5, 0.5))
    assert torch.equal(labels, small_data[1].labels[:30])
    two = ImageClassifierConfig(labels=("a", "b"), stem_planes=(4, 4), width=8, layers=1, heads=2)
    with pytest.raises(DataError, match="has 10 classes, the model knows 2"):
        ImageBundle(ImageClassifier(two), Checkpoint({}, two, {})).held_out(small_data_folder, 30)
    with pytest.raises(DataError, match="name images to measure on with --evaluate-on"):
        kind.held_out(None, 30)


def test_texts_are_cut_into_rows_and_end_where_they_end(text_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(text_checkpoint)
    (tmp_path / "words.txt").write_text(TEXT[:200], encoding="utf-8")
    found = read_texts(tmp_path / "words.txt", checkpoint, VOCABULARY, 24, 1000)
    batches = [batch() for batch in found.batches]
    assert found.token_bytes is not None
    labels = torch.cat([labels.flatten() for _, labels in batches if labels is not None])
    counted = labels[labels >= 0]
    assert int(found.token_bytes[counted].sum()) == len(TEXT[:200].strip())
    assert found.data == f"{len(counted):,} tokens of text from words.txt"
    assert all(inputs.shape[1] == 24 for inputs, _ in batches)
    few = read_texts(tmp_path / "words.txt", checkpoint, VOCABULARY, 24, 10)
    assert sum(int((labels >= 0).sum()) for _, labels in (batch() for batch in few.batches) if labels is not None) == 10
    with pytest.raises(DataError, match=r"the checkpoint has no tokenizer\.json"):
        read_texts(tmp_path / "words.txt", Checkpoint({}, CONFIG, {}), VOCABULARY, 24, 10)
    (tmp_path / "empty.txt").write_text(" ")
    with pytest.raises(DataError, match=r"empty\.txt holds no text"):
        read_texts(tmp_path / "empty.txt", checkpoint, VOCABULARY, 24, 10)
