"""The model card of a network beside the control that was trained like it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddl_model import DeltaResNet, DeltaResNetConfig
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from ddl_model.training.config import ImageDataConfig, OptimizerConfig, TrainConfig
from ddl_model.training.recipes import additive
from export.__main__ import main
from export.pipeline import ExportError, export_bundle

MODEL = DeltaResNetConfig(labels=("a", "b"), image_height=4, image_width=4, planes=(3,), blocks=1)
RECIPE = TrainConfig("tiny", MODEL, ImageDataConfig(), OptimizerConfig(1e-3), batch_size=8, epochs=1)


def save(
    run: Path, config: TrainConfig, accuracy: float, change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    model = config.model
    assert isinstance(model, DeltaResNetConfig)
    training: dict[str, Any] = {
        "recipe": config.name,
        "config": json.loads(json.dumps(config.to_dict())),
        "seed": 0,
        "step": 3,
        "steps": 3,
        "data": {"name": "fashion-mnist", "sha256": "12ab", "images": 40},
        "test": {"accuracy": accuracy},
        "curve": [{"epoch": 1, "train_loss": 0.5, "validation_loss": 0.4, "validation_accuracy": accuracy}],
    }
    if change:
        change(training)
    torch.manual_seed(0)
    save_checkpoint(run, 3, Checkpoint(DeltaResNet(model).state_dict(), model, training))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", RECIPE, 0.75)


def test_the_card_shows_both(run: Path, tmp_path: Path) -> None:
    twin = save(tmp_path / "twin", additive(RECIPE), 0.625)
    bundle = tmp_path / "models" / "tiny" / "1"
    assert main([str(run), str(bundle), "--twin", str(twin)]) == 0
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "`tiny-additive` has the same data, seed and schedule" in card
    assert "|  | delta | additive |" in card
    assert "| test accuracy | 0.7500 | 0.6250 |" in card
    assert "- Sources: Fashion-MNIST of Zalando Research, MIT licence" in card
    assert "| 1 | 0.5000 | 0.4000 | 0.7500 |" in card


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (RECIPE, None, "its residual rule is 'delta' as well"),
        (additive(RECIPE), lambda t: t.update(seed=1), "no twin: seed is 1 there and 0 here"),
        (additive(RECIPE), lambda t: t.update(step=2), "no twin: step is 2 there and 3 here"),
        (additive(RECIPE), lambda t: t["data"].update(sha256="ff"), "no twin: data.sha256 is 'ff' there"),
        (additive(RECIPE), lambda t: t["config"].update(batch_size=7), "no twin: batch_size is 7 there"),
        (
            additive(RECIPE),
            lambda t: t["config"]["model"].update(blocks=2),
            "no twin: model.blocks is 2 there and 1 here",
        ),
        (additive(RECIPE), lambda t: t.pop("config"), "has no record of its training"),
    ],
)
def test_what_is_no_twin_is_refused_with_the_difference(
    run: Path, tmp_path: Path, config: TrainConfig, change: Callable[[dict[str, Any]], None] | None, message: str
) -> None:
    other = save(tmp_path / "other", config, 0.5, change)
    with pytest.raises(ExportError, match=message):
        export_bundle(run, tmp_path / "models" / "tiny" / "1", twin=other)
    assert not (tmp_path / "models").exists()


def test_a_missing_twin_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the twin cannot be read: .*nowhere"):
        export_bundle(run, tmp_path / "models" / "tiny" / "1", twin=tmp_path / "nowhere")
