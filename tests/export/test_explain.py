"""`--explain` says what really ran: the kernel's node, or the operators that its body became."""

from pathlib import Path

import pytest

from ddl_model import ImageClassifier
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from export.__main__ import main
from export.explain import explain
from export.pipeline import export_bundle


@pytest.fixture(scope="module")
def bundle(tiny_model: ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    checkpoint = Checkpoint(tiny_model.state_dict(), tiny_model.config, {})
    save_checkpoint(folder / "run", 0, checkpoint)
    export_bundle(folder / "run", folder / "models" / "tiny" / "1")
    return folder / "models" / "tiny" / "1"


def test_without_a_library_bodies_run(bundle: Path) -> None:
    explanation = explain(bundle, "off")
    assert {path.op: path.path for path in explanation.paths} == {
        "CompressNorm": "plain",
        "DeltaRewriteCompressNorm": "plain",
    }
    rewrites = explanation.paths[1]
    assert rewrites.nodes == ("0.attn", "0.mlp", "1.attn", "1.mlp")
    assert int(rewrites.runs_as.split()[0]) > 4 * 20
    assert 0 < rewrites.microseconds < explanation.total_microseconds


def test_with_a_library_each_node_is_one_kernel_call(bundle: Path, kernel_library: Path) -> None:
    explanation = explain(bundle, str(kernel_library))
    assert [(path.op, path.path, path.runs_as) for path in explanation.paths] == [
        ("CompressNorm", "kernel", "1 kernel calls on CPUExecutionProvider"),
        ("DeltaRewriteCompressNorm", "kernel", "4 kernel calls on CPUExecutionProvider"),
    ]


def test_the_command_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", str(bundle), "--library", "off"]) == 0
    shown = capsys.readouterr().out
    assert "Custom ops take the path `plain`: switched off." in shown
    assert "| DeltaRewriteCompressNorm | 0.attn, 0.mlp, 1.attn, 1.mlp | plain |" in shown
    assert main(["--explain", str(tmp_path)]) == 1
    assert "SHA256SUMS is missing" in capsys.readouterr().err
    for wrong in (["only-a-checkpoint"], ["a", "b", "--explain", "c"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
