"""Training learns, and a run that was stopped anywhere continues bit for bit."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddl_model import load_checkpoint
from ddl_model.checkpoint import checkpoint_folders, read_checkpoint
from ddl_model.training import fashion_mnist, loop
from ddl_model.training.__main__ import main
from ddl_model.training.config import TrainConfig
from ddl_model.training.evaluate import evaluate, gate_means
from ddl_model.training.image_data import DataError, ImageSet, augment, epoch_order
from ddl_model.training.loop import TrainingError, train
from ddl_model.training.optimizer import learning_rate_at, make_optimizer
from tests.model_fixtures import SMALL_SHA256

Data = tuple[ImageSet, ImageSet]


def run(config: TrainConfig, data: Data, folder: Path, **options: object) -> loop.Outcome:
    return train(config, data, folder, show_progress=False, **options)  # type: ignore[arg-type]


def test_it_learns(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    outcome = run(replace(small_recipe, epochs=6, batch_size=36), small_data, tmp_path)
    assert outcome.finished
    assert outcome.test["accuracy"] > 0.5  # 0.1 is chance
    training = read_checkpoint(tmp_path).training
    losses = [row["train_loss"] for row in training["curve"]]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
    assert training["test"] == outcome.test
    assert training["finished"]
    assert set(training["curve"][0]["gate_means"]) == {"0.attn", "0.mlp", "1.attn", "1.mlp"}
    model = load_checkpoint(tmp_path)
    assert evaluate(model, small_data[1]).to_dict() == outcome.test  # type: ignore[arg-type]


@pytest.mark.parametrize("stops", [[3], [5], [2, 7]], ids=["within an epoch", "at its end", "twice"])
def test_a_stopped_run_continues_bit_for_bit(
    small_recipe: TrainConfig, small_data: Data, tmp_path: Path, stops: list[int]
) -> None:
    whole = run(small_recipe, small_data, tmp_path / "whole")
    for index, stop in enumerate(stops):
        outcome = run(small_recipe, small_data, tmp_path / "parts", resume=index > 0, stop_at=stop)
        assert (outcome.finished, outcome.steps) == (False, stop)
    last = run(small_recipe, small_data, tmp_path / "parts", resume=True)
    assert last.test == whole.test
    expected, actual = read_checkpoint(tmp_path / "whole"), read_checkpoint(tmp_path / "parts")
    assert all(torch.equal(expected.weights[name], actual.weights[name]) for name in expected.weights)
    assert all(torch.equal(expected.optimizer[name], actual.optimizer[name]) for name in expected.optimizer)
    keys = ("train_loss", "validation_loss", "validation_accuracy")
    curves = [[[row[key] for key in keys] for row in c.training["curve"]] for c in (expected, actual)]
    assert curves[0] == curves[1]


def test_other_seeds_give_other_weights(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(replace(small_recipe, seed=seed), small_data, tmp_path / str(seed), stop_at=1)
    weights = [read_checkpoint(tmp_path / str(seed)).weights["head.weight"] for seed in (0, 1)]
    assert not torch.equal(*weights)


def test_resume_refuses_another_run(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    run(small_recipe, small_data, tmp_path, stop_at=1)
    with pytest.raises(TrainingError, match="another configuration"):
        run(replace(small_recipe, learning_rate=1e-4), small_data, tmp_path, resume=True)
    other = ImageSet(small_data[0].images.flip(0), small_data[0].labels)
    with pytest.raises(TrainingError, match="other data"):
        run(small_recipe, (other, small_data[1]), tmp_path, resume=True)
    (checkpoint_folders(tmp_path)[-1] / "optimizer.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"no optimizer\.safetensors"):
        run(small_recipe, small_data, tmp_path, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    run(small_recipe, small_data, tmp_path, stop_at=5)
    trainer = loop.Trainer(small_recipe, small_data, tmp_path, compile_model=False)
    trainer.resume(read_checkpoint(tmp_path))
    trainer.model.head.bias.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="the loss became nan at step 5"):
        trainer.train(show_progress=False)
    assert not read_checkpoint(tmp_path).weights["head.bias"].isnan().any()


def test_a_batch_larger_than_the_data_is_refused(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="batch_size 1000 is above the 540 training images"):
        run(replace(small_recipe, batch_size=1000), small_data, tmp_path)


def test_decay_spares_biases_and_norms(tiny_model: torch.nn.Module) -> None:
    decayed, spared = make_optimizer(tiny_model, 1e-3, 0.1).param_groups
    assert {parameter.ndim for parameter in decayed["params"]} <= {2, 4}
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


def test_every_epoch_visits_every_image_once_in_its_own_order() -> None:
    first, second = epoch_order(50, seed=1, epoch=0), epoch_order(50, seed=1, epoch=1)
    assert sorted(first.tolist()) == list(range(50)) == sorted(second.tolist())
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, seed=1, epoch=0))


def test_augmentation_mirrors_and_moves_by_whole_pixels() -> None:
    image = torch.zeros(9, 9, dtype=torch.uint8)
    image[4, 3], image[4, 4] = 200, 100
    batch = augment(image.expand(400, 9, 9), shift_pixels=2, seed=0, step=0)
    brightest = {divmod(int(picture.argmax()), 9) for picture in batch}
    rows, columns = {place[0] for place in brightest}, {place[1] for place in brightest}
    assert rows == {2, 3, 4, 5, 6}
    assert columns == {1, 2, 3, 4, 5, 6, 7}  # 3 or, mirrored, 5, moved by up to 2
    assert bool((batch.flatten(1).sum(-1, dtype=torch.int64) == 300).all())
    assert torch.equal(batch, augment(image.expand(400, 9, 9), shift_pixels=2, seed=0, step=0))
    assert not torch.equal(batch, augment(image.expand(400, 9, 9), shift_pixels=2, seed=0, step=1))


def test_gate_means_are_those_of_the_gates(small_recipe: TrainConfig, small_data: Data) -> None:
    trainer = loop.Trainer(small_recipe, small_data, Path("unused"), compile_model=False)
    assert all(value == pytest.approx(1.0, abs=0.1) for value in gate_means(trainer.model, small_data[1]).values())


def test_missing_data_names_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist.load(tmp_path)


def test_data_that_is_not_the_original_is_refused(small_data_folder: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is not the original file: SHA-256 c452"):
        fashion_mnist.load(small_data_folder)


def test_damaged_data_is_refused(small_data_folder: Path, tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte"
    (tmp_path / f"{name}.gz").write_bytes((small_data_folder / f"{name}.gz").read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        fashion_mnist.load(tmp_path, SMALL_SHA256)


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "fashion-mnist" in text
    assert "--resume" in text


def test_the_command_line_refuses_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fashion-mnist", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--compile", "off"]) == 1
    assert "apt-get install" in capsys.readouterr().err
    for wrong in (["--epochs", "0"], ["--threads", "0"]):
        with pytest.raises(SystemExit) as exit_:
            main(["fashion-mnist", *wrong])
        assert exit_.value.code == 2
    (tmp_path / "run" / "step-00000001").mkdir(parents=True)
    assert main(["fashion-mnist", "--out", str(tmp_path / "run")]) == 2
    assert "add --resume to continue" in capsys.readouterr().err


_SMALL_TRAINING = """
import sys
from dataclasses import replace
from pathlib import Path
from ddl_model.training import __main__ as program, fashion_mnist
from tests.model_fixtures import SMALL_SHA256
load = fashion_mnist.load
fashion_mnist.load = lambda folder=None: load(folder, SMALL_SHA256)
recipe = program.RECIPES["fashion-mnist"]
small = lambda: replace(recipe(), validation_images=100, batch_size=20)
small.__doc__ = recipe.__doc__
program.RECIPES["fashion-mnist"] = small
sys.exit(program.main(sys.argv[1:]))
"""


def test_ctrl_c_loses_nothing_and_resume_finishes(root: Path, small_data_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SMALL_TRAINING, "fashion-mnist", "--data", str(small_data_folder)]
    command += ["--out", str(tmp_path), "--compile", "off", "--epochs", "2"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stderr is not None
        seen = ""
        while not re.search(r" [1-9]\d?/54", seen):  # the bar has passed some steps
            piece = process.stderr.read(1)
            assert piece, seen
            seen += piece
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        watchdog.cancel()
    assert process.returncode == 130
    assert "Continue with the same command and --resume" in out
    stopped = read_checkpoint(tmp_path).training
    assert 0 < stopped["step"] < stopped["steps"]
    done = subprocess.run(
        [*command, "--resume", "--quiet"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout
    finished = read_checkpoint(tmp_path).training
    assert finished["step"] == finished["steps"]
    assert json.dumps(finished["config"]) == json.dumps(stopped["config"])
