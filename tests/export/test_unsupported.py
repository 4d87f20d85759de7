"""What the fused op and the bundle format have no words for is refused by its field, not exported wrongly."""

from dataclasses import replace
from pathlib import Path

import pytest

from ddl_model import DeltaMLP, DeltaMLPConfig, ImageClassifier, ImageClassifierConfig, ResidualConfig, first_edition
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from export.__main__ import main
from export.graph import export_graph, unsupported
from export.pipeline import ExportError, export_bundle
from service.bundle import read_bundle
from tests.model_fixtures import lively

REFUSED = [
    (ResidualConfig(direction_norm="exact"), "residual.direction_norm must be 'guarded' to be exported, got 'exact'"),
    (ResidualConfig(direction_norm="learned_scale"), "residual.direction_norm must be 'guarded'"),
    (ResidualConfig(gate="grouped", gate_groups=3), "residual.gate must be 'linear' or 'two_layer' .* got 'grouped'"),
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
    with pytest.raises(
        ExportError, match="holds a DeltaMLP: only image classifiers and language models can be exported"
    ):
        export_bundle(tmp_path / "run", tmp_path / "models" / "refused" / "1")


def test_what_the_ops_can_do_is_not_refused() -> None:
    for residual in (
        ResidualConfig(),
        ResidualConfig(rule="additive", gate="grouped", gate_groups=3),
        ResidualConfig(target_map="scaled_sigmoid", target_input="compressed"),
        ResidualConfig(gate="two_layer", gate_hidden_width=20, target_map="constant"),
    ):
        assert unsupported(residual) is None


@pytest.mark.parametrize(
    ("residual", "target"),
    [
        (ResidualConfig(gate="two_layer", gate_hidden_width=7), "context"),
        (ResidualConfig(rule="write_only"), "context"),
        (first_edition(), "output"),
    ],
    ids=["a gate of two layers", "write only", "first edition"],
)
def test_what_the_ops_can_do_is_exported(
    tiny_config: ImageClassifierConfig, tmp_path: Path, residual: ResidualConfig, target: str
) -> None:
    model = lively(ImageClassifier(replace(tiny_config, layers=1, residual=residual)), seed=4)
    save_checkpoint(tmp_path / "run", 0, Checkpoint(model.state_dict(), model.config, {}))
    assert export_bundle(tmp_path / "run", tmp_path / "models" / "variant" / "1").agrees
    gates = read_bundle(tmp_path / "models" / "variant" / "1").manifest.gates
    assert gates is not None
    assert gates.value_map is not None
    assert (gates.update_rule, gates.value_map.input) == (residual.rule, target)
