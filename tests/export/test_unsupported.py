"""What the fused op and the bundle format have no words for is refused by its field, not exported wrongly."""

from dataclasses import replace
from pathlib import Path

import pytest

from ddl_model import DeltaMLP, DeltaMLPConfig, ImageClassifier, ImageClassifierConfig, ResidualConfig, first_edition
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from export.__main__ import main
from export.graph import export_graph, unsupported
from export.pipeline import ExportError, export_bundle
from tests.model_fixtures import lively

REFUSED = [
    (ResidualConfig(rule="write_only"), "residual.rule must be 'delta' or 'additive' to be exported, got 'write_only'"),
    (ResidualConfig(direction_norm="exact"), "residual.direction_norm must be 'guarded' to be exported, got 'exact'"),
    (ResidualConfig(direction_norm="learned_scale"), "residual.direction_norm must be 'guarded'"),
    (ResidualConfig(gate="grouped", gate_groups=3), "residual.gate must be 'linear' or 'two_layer' .* got 'grouped'"),
    (ResidualConfig(gate="two_layer", gate_hidden_width=21), "residual.gate_hidden_width must be the width, 20,"),
    (first_edition(), "residual.gate_hidden_width must be the width, 20,"),
    (
        replace(first_edition(), gate="linear"),
        "residual.target_input must be 'context' or 'compressed' to be exported, got 'output'",
    ),
]


@pytest.mark.parametrize(("residual", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_the_field_is_named(
    tiny_config: ImageClassifierConfig, tmp_path: Path, residual: ResidualConfig, message: str
) -> None:
    model = ImageClassifier(replace(tiny_config, residual=residual))
    with pytest.raises(RuntimeError, match=message):
        export_graph(model)
    save_checkpoint(tmp_path / "run", 0, Checkpoint(model.state_dict(), model.config, {}))
    with pytest.raises(ExportError, match=message):
        export_bundle(tmp_path / "run", tmp_path / "models" / "refused" / "1")
    assert not (tmp_path / "models").exists()


def test_the_command_line_says_it(
    tiny_config: ImageClassifierConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ImageClassifier(replace(tiny_config, residual=ResidualConfig(direction_norm="exact")))
    save_checkpoint(tmp_path / "run", 0, Checkpoint(model.state_dict(), model.config, {}))
    assert main([str(tmp_path / "run"), str(tmp_path / "models" / "refused" / "1")]) == 1
    assert "residual.direction_norm must be 'guarded' to be exported" in capsys.readouterr().err


def test_networks_of_the_first_edition_are_refused_by_name(tmp_path: Path) -> None:
    model = DeltaMLP(DeltaMLPConfig(labels=("a", "b"), inputs=3))
    save_checkpoint(tmp_path / "run", 0, Checkpoint(model.state_dict(), model.config, {}))
    with pytest.raises(ExportError, match="holds a DeltaMLP: only image classifiers can be exported"):
        export_bundle(tmp_path / "run", tmp_path / "models" / "refused" / "1")


def test_what_the_op_can_do_is_not_refused(tiny_config: ImageClassifierConfig) -> None:
    for residual in (
        ResidualConfig(),
        ResidualConfig(rule="additive", gate="grouped", gate_groups=3),
        ResidualConfig(target_map="scaled_sigmoid", target_input="compressed"),
        ResidualConfig(gate="two_layer", gate_hidden_width=20, target_map="constant"),
    ):
        assert unsupported(replace(tiny_config, residual=residual)) is None


def test_a_gate_of_two_layers_exports_where_its_hidden_width_fits_the_op(
    tiny_config: ImageClassifierConfig, tmp_path: Path
) -> None:
    residual = ResidualConfig(gate="two_layer", gate_hidden_width=20)
    model = lively(ImageClassifier(replace(tiny_config, layers=1, residual=residual)), seed=4)
    save_checkpoint(tmp_path / "run", 0, Checkpoint(model.state_dict(), model.config, {}))
    assert export_bundle(tmp_path / "run", tmp_path / "models" / "two-layer" / "1").agrees
