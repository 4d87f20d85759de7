"""Two processes train as one does, and their checkpoints are the same files."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ddl_model.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from ddl_model.training.loop import train
from ddl_model.training.open_task import open_task
from ddl_model.training.overrides import override
from ddl_model.training.recipes import text_tiny
from tests.ddl_model.training.commands import run, training, training_settings

SETTINGS = {"steps": "6", "evaluate_every": "2", "accumulation": "2"}
STRATEGIES = ("auto", "ddp", "fsdp")


@pytest.fixture(scope="module")
def runs(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return finished runs: of one process, and of two with each strategy."""
    folder = tmp_path_factory.mktemp("runs")
    for strategy, processes in zip(STRATEGIES, (1, 2, 2), strict=True):
        options = ["--quiet", "--accelerator", "cpu", "--devices", str(processes), "--strategy", strategy]
        done = run(training(tokens, folder / strategy, *options, **SETTINGS))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Held-out perplexity") == 1
    return {strategy: folder / strategy for strategy in STRATEGIES}


def losses(checkpoint: Checkpoint) -> list[float]:
    rows: list[dict[str, Any]] = checkpoint.training["curve"]
    values = [row[name] for row in rows for name in ("train_loss", "validation_loss", "validation_bits_per_byte")]
    return [*values, checkpoint.training["test"]["loss"]]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one(runs: dict[str, Path], strategy: str) -> None:
    alone, together = read_checkpoint(runs["auto"]), read_checkpoint(runs[strategy])
    assert together.training["made_with"]["placement"]["devices"] == 2
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    gates = [c.training["curve"][-1]["gate_means"] for c in (alone, together)]
    assert gates[1] == pytest.approx(gates[0], abs=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_checkpoints_are_the_same_files_whatever_the_strategy(runs: dict[str, Path], strategy: str) -> None:
    folders = [find_checkpoint(runs["auto"]), find_checkpoint(runs[strategy])]
    assert len({tuple(sorted(path.name for path in folder.iterdir())) for folder in folders}) == 1
    alone, together = (read_checkpoint(folder) for folder in folders)
    for mine, theirs in ((alone.weights, together.weights), (alone.optimizer, together.optimizer)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert theirs[name].shape == tensor.shape
            assert torch.allclose(theirs[name], tensor, atol=1e-3), name


def test_a_run_of_one_process_continues_on_two(runs: dict[str, Path], tokens: Path, tmp_path: Path) -> None:
    settings = training_settings(SETTINGS)
    config = override(text_tiny(), [f"{name}={value}" for name, value in settings.items()])
    train(config, open_task(config, tokens), tmp_path, show_progress=False, stop_at=3)
    options = ["--quiet", "--accelerator", "cpu", "--devices", "2", "--strategy", "fsdp", "--resume"]
    done = run(training(tokens, tmp_path, *options, **SETTINGS))
    assert done.returncode == 0, done.stderr
    assert losses(read_checkpoint(tmp_path)) == pytest.approx(losses(read_checkpoint(runs["auto"])), abs=1e-5)


def test_a_loss_that_is_no_number_stops_all_processes_and_is_told_once(tokens: Path, tmp_path: Path) -> None:
    options = ["--quiet", "--accelerator", "cpu", "--devices", "2"]
    done = run(training(tokens, tmp_path, *options, optimizer__learning_rate="1e30", steps="9", save_every="1"))
    assert done.returncode == 1
    assert len(re.findall(r"ddl-train: the (loss|gradient) became \w+ at step", done.stderr)) == 1
    assert "Traceback" not in done.stderr
    assert all(bool(tensor.isfinite().all()) for tensor in read_checkpoint(tmp_path).weights.values())
