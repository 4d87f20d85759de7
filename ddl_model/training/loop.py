"""The training loop, readable top to bottom.

Everything random is a function of seed, epoch and step, so a run that was stopped at any step continues bit for bit
with the weights, the optimizer's state and the step from its last checkpoint.
"""

import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from ddl_model.checkpoint import (
    Checkpoint,
    build_model,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from ddl_model.image_classifier import ImageClassifier
from ddl_model.training.config import TrainConfig
from ddl_model.training.evaluate import evaluate, gate_means
from ddl_model.training.image_data import ImageSet, augment, epoch_order, normalise
from ddl_model.training.optimizer import learning_rate_at, make_optimizer

SAMPLES = 16
"""Validation images that go into a checkpoint, to try the model on."""


class TrainingError(Exception):
    """A run cannot start or go on; the message says why and what to do."""


@dataclass
class Progress:
    """Where a run is: the next step, the sums of the epoch that it is in, and what past epochs came to."""

    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended. `test` is empty where it was interrupted."""

    folder: Path
    finished: bool
    steps: int
    test: dict[str, float]


class Trainer:
    """One training run: its data, model, optimizer and progress."""

    def __init__(self, config: TrainConfig, data: tuple[ImageSet, ImageSet], run: Path, compile_model: bool) -> None:
        """Set up a run from its first step."""
        self.config = config
        self.run = run
        self.training_set, self.validation_set = data[0].split(config.validation_images)
        self.test_set = data[1]
        self.steps_per_epoch = len(self.training_set) // config.batch_size
        if self.steps_per_epoch == 0:
            raise TrainingError(f"batch_size {config.batch_size} is above the {len(self.training_set)} training images")
        self.steps = self.steps_per_epoch * config.epochs
        torch.manual_seed(config.seed)
        self.model = ImageClassifier(config.model)
        self.optimizer = make_optimizer(self.model, config.learning_rate, config.weight_decay)
        self.forward = torch.compile(self.model) if compile_model else self.model
        self.progress = Progress()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            TrainingError: it is of another recipe or other data, or lacks the optimizer's state.
        """
        saved = checkpoint.training
        if saved.get("config") != _jsonable(self.config.to_dict()):
            raise TrainingError(
                "the checkpoint was trained with another configuration: give a new --out, or the same options"
            )
        if saved.get("data", {}).get("sha256") != self.training_set.sha256():
            raise TrainingError("the checkpoint was trained on other data: give a new --out, or the same --data")
        if not checkpoint.optimizer and saved["step"] > 0:
            raise TrainingError("the checkpoint has no optimizer.safetensors, so training cannot continue from it")
        self.model.load_state_dict(build_model(checkpoint).state_dict())
        restore_optimizer(self.model, self.optimizer, checkpoint.optimizer)
        self.progress = Progress(saved["step"], saved["loss_sum"], saved["epoch_seconds"], saved["curve"])

    def train(self, *, show_progress: bool = True, stop_at: int | None = None) -> Outcome:
        """Train to the end, or until Ctrl-C, SIGTERM or step `stop_at`; a checkpoint is written in any case."""
        with _stop_request() as stop:
            bar = tqdm(
                total=self.steps, initial=self.progress.step, unit="step", disable=not show_progress, dynamic_ncols=True
            )
            with bar:
                while self.progress.step < self.steps and not stop and self.progress.step != stop_at:
                    self._train_epoch(bar, stop, stop_at)
            if self.progress.step < self.steps:
                return Outcome(self._save({}), False, self.progress.step, {})
        test = evaluate(self.model, self.test_set).to_dict()
        return Outcome(self._save(test), True, self.progress.step, test)

    def _train_epoch(self, bar: "tqdm[Any]", stop: list[int], stop_at: int | None) -> None:
        progress = self.progress
        epoch, first = divmod(progress.step, self.steps_per_epoch)
        order = epoch_order(len(self.training_set), self.config.seed, epoch)
        began = time.monotonic() - progress.epoch_seconds
        self.model.train()
        for index in range(first, self.steps_per_epoch):
            if stop or progress.step == stop_at:
                return
            batch = order[index * self.config.batch_size : (index + 1) * self.config.batch_size]
            progress.loss_sum += self._train_step(batch)
            progress.step += 1
            progress.epoch_seconds = time.monotonic() - began
            bar.set_description(f"epoch {epoch + 1}/{self.config.epochs}", refresh=False)
            bar.set_postfix(loss=f"{progress.loss_sum / (index + 1):.3f}", refresh=False)
            bar.update()
        result = evaluate(self.model, self.validation_set)
        progress.curve.append(
            {
                "epoch": epoch + 1,
                "step": progress.step,
                "train_loss": progress.loss_sum / self.steps_per_epoch,
                "validation_loss": result.loss,
                "validation_accuracy": result.accuracy,
                "gate_means": gate_means(self.model, self.validation_set),
                "seconds": round(progress.epoch_seconds, 1),
            }
        )
        bar.write(
            f"epoch {epoch + 1}/{self.config.epochs}: loss {progress.loss_sum / self.steps_per_epoch:.4f}, "
            f"validation loss {result.loss:.4f}, accuracy {result.accuracy:.2%}, {progress.epoch_seconds:.0f} s"
        )
        progress.loss_sum, progress.epoch_seconds = 0.0, 0.0
        self._save({})

    def _train_step(self, batch: torch.Tensor) -> float:
        config = self.config
        step = self.progress.step
        images = augment(self.training_set.images[batch], config.shift_pixels, config.seed, step)
        pixels = normalise(images, config.model.pixel_mean, config.model.pixel_std)
        rate = learning_rate_at(step, self.steps, config.learning_rate, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(self.forward(pixels), self.training_set.labels[batch].long())
        value = loss.item()
        if not value < float("inf"):
            raise TrainingError(
                f"the loss became {value} at step {step}; the last checkpoint in {self.run} is from before. "
                "Lower the learning rate and start anew."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return value

    def _save(self, test: dict[str, float]) -> Path:
        progress = self.progress
        training = {
            "recipe": self.config.name,
            "config": _jsonable(self.config.to_dict()),
            "seed": self.config.seed,
            "data": {
                "name": self.config.dataset,
                "sha256": self.training_set.sha256(),
                "images": len(self.training_set),
            },
            "step": progress.step,
            "steps": self.steps,
            "finished": progress.step == self.steps,
            "loss_sum": progress.loss_sum,
            "epoch_seconds": progress.epoch_seconds,
            "curve": progress.curve,
            "test": test,
            "made_with": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "threads": str(torch.get_num_threads()),
            },
        }
        optimizer = optimizer_tensors(self.model, self.optimizer)
        held_out = self.validation_set
        samples = {
            "pixels": normalise(held_out.images[:SAMPLES], self.config.model.pixel_mean, self.config.model.pixel_std),
            "labels": held_out.labels[:SAMPLES].long(),
        }
        checkpoint = Checkpoint(self.model.state_dict(), self.config.model, training, optimizer, samples)
        return save_checkpoint(self.run, progress.step, checkpoint)


def train(
    config: TrainConfig,
    data: tuple[ImageSet, ImageSet],
    run: Path,
    *,
    resume: bool = False,
    compile_model: bool = False,
    show_progress: bool = True,
    stop_at: int | None = None,
) -> Outcome:
    """Train a classifier into the run folder, from the start or from the folder's newest checkpoint.

    Raises:
        TrainingError: the run cannot start or go on.
        CheckpointError: `resume` is set and the folder has no checkpoint that can be read.
    """
    trainer = Trainer(config, data, run, compile_model)
    if resume:
        trainer.resume(read_checkpoint(run))
    return trainer.train(show_progress=show_progress, stop_at=stop_at)


@contextmanager
def _stop_request() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of raising, so that a step is never cut in two.

    The handlers are put back at the first signal: a second Ctrl-C ends the process at once.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: only stop_at can end the run early
        previous.clear()
    try:
        yield received
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)


def _jsonable(value: Any) -> Any:
    """Return `value` as it comes back from a JSON file: tuples as lists."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
