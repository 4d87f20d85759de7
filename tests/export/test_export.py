"""The exporter: one delta node per rewrite, a bundle that appears whole, a parity report that can fail."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from ddl_model import ImageClassifier, ImageClassifierConfig, ResidualConfig, StateConfig
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from ddl_model.interventions import Intervention
from ddl_model.observe import Observer
from export.__main__ import main
from export.depth import FIRST_STATE, direction_output, torch_depth
from export.graph import PIXELS, QUANTITIES, output_names, override_input
from export.image_bundle import ImageBundle, torch_outputs
from export.ops.contract import DOMAIN
from export.pipeline import ExportError, export_bundle
from export.trace import ExportedGraph
from service.bundle import Manifest, read_bundle
from tests.model_fixtures import lively


def save(model: ImageClassifier, run: Path) -> Path:
    return save_checkpoint(run, 0, Checkpoint(model.state_dict(), model.config, {}))


@pytest.fixture(scope="module")
def checkpoint(tiny_model: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny" / "1"
    assert export_bundle(checkpoint, folder, description="A tiny one.").agrees
    return folder


@pytest.fixture(scope="module")
def graph(bundle: Path) -> onnx.ModelProto:
    return onnx.load(bundle / "graphs" / "model.onnx")


def test_one_fused_node_per_rewrite_with_the_plain_body_attached(graph: onnx.ModelProto) -> None:
    nodes = [node for node in graph.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == ["CompressNorm", *["DeltaRewriteCompressNorm"] * 4]
    assert {(function.domain, function.name) for function in graph.functions} == {
        (DOMAIN, "CompressNorm"),
        (DOMAIN, "DeltaRewriteCompressNorm"),
    }
    assert nodes[-1].output[0] == "", "nobody uses the last state: kernels need not write it"
    onnx.checker.check_model(graph, full_check=True)


def test_outputs_are_named_and_the_batch_is_free(graph: onnx.ModelProto) -> None:
    sites = ["0.attn", "0.mlp", "1.attn", "1.mlp"]
    depth = [direction_output(sites[0]), FIRST_STATE, *map(direction_output, sites[1:])]
    assert [output.name for output in graph.graph.output] == [*output_names(sites), *depth]
    assert len(graph.graph.output) == 2 + 4 * len(QUANTITIES) + 4 + 1
    assert [tensor.name for tensor in graph.graph.input[1:]] == [override_input(site) for site in sites]
    for tensor in (graph.graph.input[0], *graph.graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_graph_tells_nothing_of_the_machine_that_made_it(graph: onnx.ModelProto, root: Path) -> None:
    content = graph.SerializeToString()
    for secret in (str(root), "site-packages", str(Path.home())):
        assert secret.encode() not in content


def test_the_reference_evaluator_gives_torchs_numbers(graph: onnx.ModelProto, tiny_model: ImageClassifier) -> None:
    pixels = torch.randn(2, 1, 18, 15, generator=torch.Generator().manual_seed(1))
    expected = {**torch_outputs(tiny_model, pixels), **torch_depth(tiny_model, pixels)}
    answered = onnx.reference.ReferenceEvaluator(graph).run(None, {PIXELS: pixels.numpy()})
    for output, array in zip(graph.graph.output, answered, strict=True):
        tensor = expected.pop(output.name)
        torch.testing.assert_close(torch.from_numpy(array), tensor, atol=1e-5, rtol=1e-5, msg=output.name)
    assert not expected


def test_the_manifest_describes_the_network(bundle: Path, tiny_model: ImageClassifier) -> None:
    manifest = read_bundle(bundle).manifest
    assert (manifest.name, manifest.description) == ("tiny", "A tiny one.")
    assert manifest.classification.labels == ("a", "b", "c")
    assert [(op.name, op.version, op.count, op.value_channels) for op in manifest.graph.custom_ops] == [
        ("CompressNorm", 1, 1, (3,)),
        ("DeltaRewriteCompressNorm", 1, 4, (3,)),
    ]
    assert manifest.gates is not None
    assert [site.module for site in manifest.gates.sites] == [
        f"blocks.{layer}.{sublayer}.residual" for layer in (0, 1) for sublayer in ("attn", "mlp")
    ]
    assert manifest.gates.positions.grid == tiny_model.config.grid == (5, 4)
    assert manifest.gates.outputs["beta"][1] == "gates/0.mlp/beta"


def test_overrides_change_gates_as_interventions_do(bundle: Path, tiny_model: ImageClassifier) -> None:
    pixels = torch.randn(2, 1, 18, 15, generator=torch.Generator().manual_seed(1))
    manifest = read_bundle(bundle).manifest
    assert manifest.gates is not None
    sites = ("0.mlp", "1.attn")
    numbers = {"0.mlp": (0.0, 0.3, 0.0, 2.0, 1.0, 1.0), "1.attn": (1.0, 0.0, 0.0, 2.0, 0.0, 1.0)}
    feeds = {PIXELS: pixels.numpy()}
    for site in sites:
        name = manifest.gates.overrides[["0.attn", "0.mlp", "1.attn", "1.mlp"].index(site)]
        feeds[name] = np.array(numbers[site], np.float32).reshape(1, 1, 6)
    session = ort.InferenceSession(bundle / "graphs" / "model.onnx", session_options())
    (logits,) = session.run(["logits"], feeds)
    changes = [Intervention("set", 0.3, sites=("0.mlp",)), Intervention("drop_erase", sites=("1.attn",))]
    with torch.no_grad():
        expected = tiny_model(pixels, Observer(changes))
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-5)


def session_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def test_files_are_complete_and_readable_by_everyone(bundle: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == {
        "manifest.json",
        "graphs/model.onnx",
        "golden/samples.safetensors",
        "head.safetensors",
        "PARITY.md",
        "MODEL_CARD.md",
        "SHA256SUMS",
    }
    assert all((bundle / name).stat().st_mode & 0o044 == 0o044 for name in names)
    assert "All agree." in (bundle / "PARITY.md").read_text()


def test_squashed_targets_and_additive_networks_export_too(tiny_config: ImageClassifierConfig, tmp_path: Path) -> None:
    scalar = replace(tiny_config, layers=1, state=StateConfig(value_channels=1))
    squashed = ResidualConfig(target_map="scaled_sigmoid", target_scale=2.5, target_input="compressed")
    additive = replace(tiny_config, layers=1, residual=ResidualConfig(rule="additive"))
    for number, config in enumerate((replace(scalar, residual=squashed), additive), start=1):
        model = lively(ImageClassifier(config), seed=number)
        folder = tmp_path / "models" / "variant" / str(number)
        assert export_bundle(save(model, tmp_path / f"run{number}"), folder).agrees
    first, second = (read_bundle(tmp_path / "models" / "variant" / str(n)).manifest for n in (1, 2))
    assert first.gates is not None
    assert first.gates.value_map is not None
    assert first.gates.value_map.model_dump() == {"kind": "sigmoid", "scale": 2.5, "input": "x_in"}
    assert second.gates is None
    assert [(op.name, op.count) for op in second.graph.custom_ops] == [("CompressNorm", 3)]


@pytest.fixture
def traced(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> ExportedGraph:
    """The bundle's graph, which exports take instead of tracing it again."""
    operators = {op.name: op.count for op in read_bundle(bundle).manifest.graph.custom_ops}
    traced = ExportedGraph(ir.load(bundle / "graphs" / "model.onnx"), operators)
    monkeypatch.setattr(ImageBundle, "graphs", lambda self: {"model": traced})
    return traced


def test_a_graph_that_disagrees_is_refused_and_nothing_is_left(
    checkpoint: Path, traced: ExportedGraph, tmp_path: Path
) -> None:
    """The graph has other weights than torch, as a wrong translation would look."""
    bias = traced.model.graph.initializers["model.blocks.1.mlp.residual.gate.bias"]
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(1e-3), name=bias.name)
    with pytest.raises(ExportError, match="does not give torch's numbers"):
        export_bundle(checkpoint, tmp_path / "models" / "wrong" / "1")
    assert not list((tmp_path / "models" / "wrong").iterdir())


@pytest.mark.parametrize("path", ["bundle", "models/Tiny/1", "models/tiny/latest", "models/tiny/1.0"])
def test_a_path_that_is_no_name_and_version_is_refused(checkpoint: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(ExportError, match="must end in NAME/VERSION"):
        export_bundle(checkpoint, tmp_path / path)


@pytest.mark.usefixtures("traced")
def test_the_command_line(checkpoint: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(bundle, tmp_path / "models" / "tiny" / "1"))
    assert main([str(checkpoint), str(bundle)]) == 1
    assert "exists: choose the next version, or replace it with --force" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "models" / "x" / "1")]) == 1
    assert "is no checkpoint" in capsys.readouterr().err
    before = json.loads((bundle / "manifest.json").read_text())
    assert main([str(checkpoint), str(bundle), "--force", "--description", "Again."]) == 0
    assert "All agree." in capsys.readouterr().out
    after = json.loads((bundle / "manifest.json").read_text())
    assert (before["description"], after["description"]) == ("A tiny one.", "Again.")
    assert Manifest.model_validate(after).weights_sha256 == before["weights_sha256"]


def test_what_is_over_depth_adds_no_node(graph: onnx.ModelProto) -> None:
    made = {output for node in graph.graph.node for output in node.output if output}
    sites = ["0.attn", "0.mlp", "1.attn", "1.mlp"]
    read = {name for node in graph.graph.node for name in node.input}
    for name in (FIRST_STATE, *map(direction_output, sites)):
        assert name in made
        assert name in read, f"{name} is computed for nobody but who asks for it"
