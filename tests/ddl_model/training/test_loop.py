"""Training learns, and a run that was stopped anywhere continues bit for bit."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ddl_model import load_checkpoint
from ddl_model.checkpoint import checkpoint_folders, make_model, read_checkpoint
from ddl_model.training import loop
from ddl_model.training.config import TextDataConfig, TrainConfig
from ddl_model.training.engine import Placement
from ddl_model.training.errors import TrainingError
from ddl_model.training.image_data import ImageSet
from ddl_model.training.loop import Outcome, Trainer, train
from ddl_model.training.optimizer import learning_rate_at, make_optimizer
from ddl_model.training.task import Task
from tests.ddl_model.training.conftest import SLOW_NORM, image_task, optimizer_changed, text_task

Data = tuple[ImageSet, ImageSet]
Run = tuple[TrainConfig, Task]


def run(config: TrainConfig, task: Task, folder: Path, **options: Any) -> Outcome:
    return train(config, task, folder, show_progress=False, **options)


@pytest.fixture(params=["text", "images"])
def small_run(
    request: pytest.FixtureRequest, text_config: TrainConfig, small_recipe: TrainConfig, small_data: Data
) -> Run:
    """Return a run of 12 steps on text, or of 10 on images."""
    if request.param == "text":
        return text_config, text_task(text_config)
    return small_recipe, image_task(small_recipe, small_data)


def test_a_classifier_learns(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    config = replace(small_recipe, epochs=6, batch_size=36)
    task = image_task(config, small_data)
    outcome = run(config, task, tmp_path)
    assert outcome.finished
    assert outcome.test["accuracy"] > 0.5  # 0.1 is chance
    training = read_checkpoint(tmp_path).training
    losses = [row["train_loss"] for row in training["curve"]]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
    assert training["test"] == outcome.test
    assert training["finished"]
    assert set(training["curve"][0]["gate_means"]) == {"0.attn", "0.mlp", "1.attn", "1.mlp"}
    assert [row["epoch"] for row in training["curve"]] == [1, 2, 3, 4, 5, 6]
    model = load_checkpoint(tmp_path)
    sums = [task.measure(model, *make()) for make in task.held_out("test")]
    assert task.metrics(torch.stack(sums).sum(0)) == pytest.approx(outcome.test)


def test_a_language_model_learns(text_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(optimizer_changed(text_config, learning_rate=1e-2), steps=150, evaluate_every=50)
    outcome = run(config, text_task(config), tmp_path)
    assert outcome.test["loss"] < 2.5  # log(300) = 5.7 is chance
    assert outcome.test["bits_per_byte"] < 2.0  # 8 is chance
    checkpoint = read_checkpoint(tmp_path)
    assert [row["step"] for row in checkpoint.training["curve"]] == [50, 100, 150]
    assert checkpoint.training["curve"][-1]["tokens"] == 150 * 8 * 16
    assert checkpoint.training["curve"][-1]["validation_accuracy"] > 0.4
    assert json.loads(checkpoint.tokenizer)["model"]["type"] == "BPE"


@pytest.mark.parametrize("stops", [[3], [4], [2, 7]], ids=["between evaluations", "at one", "twice"])
def test_a_stopped_run_continues_bit_for_bit(small_run: Run, tmp_path: Path, stops: list[int]) -> None:
    whole = run(*small_run, tmp_path / "whole")
    for index, stop in enumerate(stops):
        outcome = run(*small_run, tmp_path / "parts", resume=index > 0, stop_at=stop)
        assert (outcome.finished, outcome.steps) == (False, stop)
    last = run(*small_run, tmp_path / "parts", resume=True)
    assert last.test == whole.test
    expected, actual = read_checkpoint(tmp_path / "whole"), read_checkpoint(tmp_path / "parts")
    assert all(torch.equal(expected.weights[name], actual.weights[name]) for name in expected.weights)
    assert expected.optimizer.keys() == actual.optimizer.keys()
    assert all(torch.equal(expected.optimizer[name], actual.optimizer[name]) for name in expected.optimizer)
    curves = [[{**row, "seconds": 0} for row in c.training["curve"]] for c in (expected, actual)]
    assert curves[0] == curves[1]


def test_a_run_stopped_before_its_first_step_continues(small_run: Run, tmp_path: Path) -> None:
    whole = run(*small_run, tmp_path / "whole")
    run(*small_run, tmp_path / "parts", stop_at=0)
    assert run(*small_run, tmp_path / "parts", resume=True).test == whole.test


def test_a_finished_run_stays_as_it_is(text_config: TrainConfig, tmp_path: Path) -> None:
    outcome = run(text_config, text_task(text_config), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in outcome.folder.iterdir()}
    assert run(text_config, text_task(text_config), tmp_path, resume=True) == outcome
    assert {path: path.stat().st_mtime_ns for path in outcome.folder.iterdir()} == before


class Drawing(nn.Module):
    """Adds noise, as dropout would, and keeps a number of it."""

    def __init__(self, model: nn.Module, drawn: list[float]) -> None:
        super().__init__()
        self.model, self.drawn = model, drawn

    def forward(self, inputs: torch.Tensor, observer: Any = None) -> torch.Tensor:
        noise = torch.rand(())
        self.drawn.append(float(noise))
        logits: torch.Tensor = self.model(inputs, observer=observer)
        return logits + noise if self.training else logits


def test_what_a_model_draws_itself_is_the_same_after_resuming(
    text_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[float]] = {"whole": [], "parts": []}
    make = make_model
    for name, parts in (("whole", [None]), ("parts", [5, None])):
        monkeypatch.setattr(loop, "make_model", lambda config, name=name: Drawing(make(config), drawn[name]))
        monkeypatch.setattr(loop, "build_model", lambda c, name=name: Drawing(make(c.config), drawn[name]))
        for index, stop in enumerate(parts):
            trainer = Trainer(replace(text_config, evaluate_every=100), text_task(text_config), tmp_path, Placement())
            trainer.progress.step = 5 * index
            trainer._saved_step = 5 * index
            trainer.steps = 8
            trainer.train(show_progress=False, stop_at=stop or 7)
    assert drawn["whole"] == drawn["parts"]
    assert len(set(drawn["whole"])) == 7


def test_checkpoints_are_written_as_often_as_wanted(text_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(text_config, save_every=2, evaluate_every=100)
    run(config, text_task(config), tmp_path, stop_at=5)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-00000004", "step-00000005"]


def test_other_seeds_give_other_weights(small_run: Run, tmp_path: Path) -> None:
    config, task = small_run
    for seed in (0, 1):
        run(replace(config, seed=seed), task, tmp_path / str(seed), stop_at=1)
    first, second = (read_checkpoint(tmp_path / str(seed)).weights for seed in (0, 1))
    name = next(name for name in first if name.endswith("process.out.weight"))
    assert not torch.equal(first[name], second[name])


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_give_the_step_of_the_whole_batch(
    text_config: TrainConfig, tmp_path: Path, parts: int
) -> None:
    task = text_task(text_config)
    run(text_config, task, tmp_path / "whole", stop_at=4)
    run(replace(text_config, accumulation=parts), task, tmp_path / "parts", stop_at=4)
    whole, accumulated = (read_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    rows = [c.training["curve"][-1] for c in (whole, accumulated)]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], abs=1e-5)
    assert rows[0]["validation_loss"] == pytest.approx(rows[1]["validation_loss"], abs=1e-5)


def test_gradients_are_clipped_to_the_norm(text_config: TrainConfig, tmp_path: Path) -> None:
    task, norms = text_task(text_config), {}
    for clip in (0.0, 1e-3):
        trainer = Trainer(optimizer_changed(text_config, clip_norm=clip), task, tmp_path, Placement())

        def keep(*args: Any, clip: float = clip, trainer: Trainer = trainer, **options: Any) -> None:
            gradients = [p.grad for p in trainer.engine.model.parameters() if p.grad is not None]
            norms[clip] = float(nn.utils.get_total_norm(gradients))

        trainer.engine.plain_optimizer.step = keep  # type: ignore[method-assign]
        result = trainer.engine.step(trainer._parts(0), task, 1e-3)
        assert result.gradient_norm == (0.0 if clip == 0 else pytest.approx(norms[0.0], rel=1e-5))
    assert norms[0.0] > 0.1
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.filterwarnings(SLOW_NORM)
def test_mixed_precision_trains_to_a_similar_loss(text_config: TrainConfig, tmp_path: Path) -> None:
    task = text_task(text_config)
    config = replace(text_config, precision="bf16-mixed")
    losses = [run(c, task, tmp_path / c.precision).test["loss"] for c in (text_config, config)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]
    weights = read_checkpoint(tmp_path / "bf16-mixed").weights
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_resume_refuses_another_run(
    small_run: Run, small_recipe: TrainConfig, small_data: Data, tmp_path: Path
) -> None:
    config, task = small_run
    run(config, task, tmp_path, stop_at=1)
    rate = config.optimizer.learning_rate
    with pytest.raises(TrainingError, match=rf"another configuration \(optimizer\.learning_rate is 0\.1, was {rate}\)"):
        run(optimizer_changed(config, learning_rate=0.1), task, tmp_path, resume=True)
    (checkpoint_folders(tmp_path)[-1] / "optimizer.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"no optimizer\.safetensors"):
        run(config, task, tmp_path, resume=True)


def test_tokens_may_move_between_stop_and_resume(text_config: TrainConfig, tokens: Path, tmp_path: Path) -> None:
    whole = run(text_config, text_task(text_config), tmp_path / "whole")
    run(text_config, text_task(text_config), tmp_path / "parts", stop_at=2)
    shutil.copytree(tokens, tmp_path / "moved")
    assert isinstance(text_config.data, TextDataConfig)
    moved = replace(text_config, data=replace(text_config.data, folder=str(tmp_path / "moved")))
    assert run(moved, text_task(moved), tmp_path / "parts", resume=True).test == whole.test


def test_resume_refuses_other_data(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    run(small_recipe, image_task(small_recipe, small_data), tmp_path, stop_at=1)
    other = ImageSet(small_data[0].images.flip(0), small_data[0].labels)
    with pytest.raises(TrainingError, match="other data"):
        run(small_recipe, image_task(small_recipe, (other, small_data[1])), tmp_path, resume=True)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run(
    text_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    task = text_task(text_config)
    run(text_config, task, tmp_path, stop_at=5)
    trainer = Trainer(text_config, task, tmp_path, Placement())
    trainer.resume(read_checkpoint(tmp_path))
    if what == "loss":
        trainer.engine.model.final_norm.weight.data.fill_(math.nan)  # type: ignore[union-attr, operator]
    else:
        trainer.engine.model.final_norm.weight.register_hook(lambda g: g * math.nan)  # type: ignore[union-attr, operator]
    before = {name: tensor.clone() for name, tensor in trainer.engine.model.state_dict().items()}
    with pytest.raises(TrainingError, match=f"the {what} became nan at step 5; the last checkpoint in"):
        trainer.train(show_progress=False)
    after = trainer.engine.model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)
    kept = read_checkpoint(tmp_path)
    assert kept.training["step"] == 5
    assert not any(tensor.isnan().any() for tensor in kept.weights.values())


def test_batches_that_cannot_be_are_refused(small_recipe: TrainConfig, small_data: Data, tmp_path: Path) -> None:
    task = image_task(small_recipe, small_data)
    with pytest.raises(TrainingError, match="batch_size 1000 is above the 540 training rows"):
        run(replace(small_recipe, batch_size=1000), task, tmp_path)
    with pytest.raises(TrainingError, match=r"divided into 1 accumulated parts for 3 devices: .* multiple of 3"):
        run(small_recipe, task, tmp_path, placement=Placement(devices=3))


def test_the_record_says_what_made_the_checkpoint(text_config: TrainConfig, tmp_path: Path) -> None:
    task = text_task(text_config)
    run(text_config, task, tmp_path, stop_at=1)
    record = read_checkpoint(tmp_path).training
    assert record["seed"] == 0
    assert record["config"]["optimizer"]["learning_rate"] == text_config.optimizer.learning_rate
    assert record["data"]["sha256"] == task.header.sha256()
    assert {"python", "torch", "lightning-fabric", "tokenizers", "placement"} <= set(record["made_with"])


def test_decay_spares_biases_and_norms(tiny_model: nn.Module) -> None:
    decayed, spared = make_optimizer(tiny_model, 1e-3, 0.1).param_groups
    assert {parameter.ndim for parameter in decayed["params"]} <= {2, 4}
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_learning_rate_rises_then_falls_to_its_end() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3
    assert learning_rate_at(55, 100, 2.0, 0.1, 0.1) == pytest.approx(2.0 * 0.55)
    assert learning_rate_at(99, 100, 1.0, 0.1, 0.1) == pytest.approx(0.1, abs=1e-3)
