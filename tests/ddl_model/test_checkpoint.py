"""Checkpoints appear whole, come back exactly, and say what is wrong with them."""

import copy
import json
from pathlib import Path

import pytest
import torch

from ddl_model import ImageClassifier, load_checkpoint
from ddl_model.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_folders,
    find_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from ddl_model.training.optimizer import make_optimizer


def save(model: ImageClassifier, run: Path, step: int = 0) -> Path:
    return save_checkpoint(run, step, Checkpoint(model.state_dict(), model.config, {"step": step}))


def test_a_model_comes_back_bit_for_bit(tiny_model: ImageClassifier, tmp_path: Path) -> None:
    folder = save(tiny_model, tmp_path)
    pixels = torch.randn(2, 1, 18, 15, generator=torch.Generator().manual_seed(0))
    for path in (folder, tmp_path, str(tmp_path)):
        loaded = load_checkpoint(path)
        assert not loaded.training
        assert torch.equal(loaded(pixels), tiny_model(pixels))


def test_files_hold_no_code_and_everyone_may_read_them(tiny_model: ImageClassifier, tmp_path: Path) -> None:
    folder = save(tiny_model, tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_the_newest_is_found_and_old_ones_go(tiny_model: ImageClassifier, tmp_path: Path) -> None:
    for step in (5, 40, 300):
        save(tiny_model, tmp_path, step)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-00000040", "step-00000300"]
    assert find_checkpoint(tmp_path).name == "step-00000300"


def test_a_write_that_was_cut_off_leaves_the_last_checkpoint(tiny_model: ImageClassifier, tmp_path: Path) -> None:
    save(tiny_model, tmp_path, 1)
    partial = tmp_path / ".step-00000002.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert read_checkpoint(tmp_path).training["step"] == 1
    save(tiny_model, tmp_path, 2)
    assert read_checkpoint(tmp_path).training["step"] == 2
    assert not partial.exists()


def test_saving_the_same_step_again_replaces_it(tiny_model: ImageClassifier, tmp_path: Path) -> None:
    save(tiny_model, tmp_path, 1)
    changed = Checkpoint(tiny_model.state_dict(), tiny_model.config, {"step": 1, "note": "second"})
    save_checkpoint(tmp_path, 1, changed)
    assert read_checkpoint(tmp_path).training["note"] == "second"


def test_optimizer_state_comes_back(tiny_model: ImageClassifier) -> None:
    model = copy.deepcopy(tiny_model)
    optimizer = make_optimizer(model, 1e-3, 0.1)
    model(torch.ones(2, 1, 18, 15)).sum().backward()
    optimizer.step()
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(model, optimizer).items()}
    fresh = make_optimizer(model, 1e-3, 0.1)
    restore_optimizer(model, fresh, kept)
    again = optimizer_tensors(model, fresh)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    with pytest.raises(CheckpointError, match=r"'nowhere\.weight/step', which belongs to no parameter"):
        restore_optimizer(model, fresh, {"nowhere.weight/step": torch.zeros(())})


def test_who_wants_a_model_does_not_read_the_optimizer(tiny_model: ImageClassifier, tmp_path: Path) -> None:
    optimizer = {"head.weight/exp_avg": torch.ones(3, 20)}
    folder = save_checkpoint(tmp_path, 0, Checkpoint(tiny_model.state_dict(), tiny_model.config, {}, optimizer))
    assert read_checkpoint(folder).optimizer.keys() == optimizer.keys()
    assert not read_checkpoint(folder, optimizer=False).optimizer
    (folder / "optimizer.safetensors").write_bytes(b"cut off")
    load_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors cannot be read"):
        read_checkpoint(folder)


def damage(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    match kind:
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "cut weights":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
        case "no json":
            (folder / "config.json").write_text("{")
        case "a list":
            (folder / "training.json").write_text("[]")
        case "other model":
            (folder / "config.json").write_text(json.dumps(config | {"model": "diffusion"}))
        case "bad field":
            config["config"]["width"] = 0
            (folder / "config.json").write_text(json.dumps(config))
        case "other width":
            config["config"]["width"] = 22
            (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no weights", r"is no checkpoint \(model.safetensors is missing\)"),
        ("cut weights", "model.safetensors cannot be read"),
        ("no json", "config.json cannot be read"),
        ("a list", "training.json must hold a JSON object"),
        ("other model", "does not describe one of image_classifier, language_model"),
        ("bad field", "width must be at least 1, got 0"),
        ("other width", "the weights do not fit the config"),
    ],
)
def test_a_damaged_checkpoint_says_what_is_wrong(
    tiny_model: ImageClassifier, tmp_path: Path, kind: str, message: str
) -> None:
    folder = save(tiny_model, tmp_path)
    damage(folder, kind)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)
