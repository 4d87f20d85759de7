"""The training loop, readable top to bottom.

Everything random is a function of seed, epoch and step, so a run that was stopped at any step continues bit for bit
with the weights, the optimizer's state and the step from its last checkpoint.
"""

import hashlib
import math
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ddl_model.checkpoint import (
    Checkpoint,
    build_model,
    make_model,
    read_checkpoint,
    save_checkpoint,
)
from ddl_model.training.config import TrainConfig
from ddl_model.training.engine import Engine, Placement
from ddl_model.training.errors import TrainingError
from ddl_model.training.monitor import Monitor
from ddl_model.training.optimizer import learning_rate_at
from ddl_model.training.record import comparable, differences, jsonable, made_with
from ddl_model.training.signals import stop_request
from ddl_model.training.task import Batch, Task


@dataclass
class Progress:
    """Where a run is: the next step, what was summed up since the last evaluation, and what the evaluations said."""

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
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

    def __init__(self, config: TrainConfig, task: Task, run: Path, placement: Placement) -> None:
        """Set up a run from its first step.

        Raises:
            TrainingError: the batch is larger than the data, or cannot be divided among the devices.
        """
        self.config, self.task, self.run = config, task, run
        self.steps = total_steps(config, task)
        self.steps_per_epoch = task.items // config.batch_size
        shares = config.accumulation * placement.processes
        if config.batch_size % shares:
            raise TrainingError(
                f"batch_size {config.batch_size} cannot be divided into {config.accumulation} accumulated parts for "
                f"{placement.processes} devices: it must be a multiple of {shares}"
            )
        self.part = config.batch_size // shares
        self.evaluate_every = config.evaluate_every or self.steps_per_epoch
        self.engine = Engine(placement, config.precision)
        torch.manual_seed(config.seed)
        self.engine.set_up(make_model(config.model), config.optimizer)
        self.progress = Progress()
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0))
        self._saved_step = -1

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            TrainingError: it is of another recipe or other data, or lacks the optimizer's state.
            CheckpointError: its weights do not fit.
        """
        saved = checkpoint.training
        if changed := differences(comparable(saved.get("config")), comparable(self.config)):
            raise TrainingError(
                f"the checkpoint was trained with another configuration ({changed}): "
                "give a new --out, or the same options"
            )
        if saved.get("data", {}).get("sha256") != self.task.describe()["sha256"]:
            raise TrainingError("the checkpoint was trained on other data: give a new --out, or the same --data")
        if not checkpoint.optimizer and saved["step"] > 0:
            raise TrainingError("the checkpoint has no optimizer.safetensors, so training cannot continue from it")
        self.engine.restore(build_model(checkpoint).state_dict(), checkpoint.optimizer)
        self.progress = Progress(
            saved["step"], saved["loss_sum"], saved["loss_steps"], saved["seconds"], saved["curve"]
        )
        self._saved_step = saved["step"]

    def train(self, *, show_progress: bool = True, stop_at: int | None = None) -> Outcome:
        """Train to the end, or until Ctrl-C, SIGTERM or step `stop_at`; a checkpoint is written in any case.

        Raises:
            TrainingError: the loss is no finite number any more; the last checkpoint is from before.
        """
        progress = self.progress
        monitor = Monitor(
            self.run, self.steps, self.task.unit, active=self.engine.rank == 0, show_progress=show_progress
        ).start(progress.step)
        try:
            with stop_request() as stop:
                stopped = False
                while progress.step < self.steps and not stopped and progress.step != stop_at:
                    stopped = self._train_step(monitor, bool(stop))
                    due = progress.step % self.evaluate_every == 0 or progress.step == self.steps
                    if due:
                        self._evaluate(monitor)
                    every = self.config.save_every
                    if progress.step < self.steps and (due or (every and progress.step % every == 0)):
                        self._save({})
                if progress.step < self.steps:
                    return Outcome(self._save({}), False, progress.step, {})
            test = self.engine.evaluate(self.task, self.task.held_out("test"))
            return Outcome(self._save(test), True, progress.step, test)
        finally:
            monitor.close()

    def _train_step(self, monitor: Monitor, wants_stop: bool) -> bool:
        """Train on the next batch; return whether some process wants to stop."""
        progress, optimizer, began = self.progress, self.config.optimizer, time.monotonic()
        step = progress.step
        rate = learning_rate_at(step, self.steps, optimizer.learning_rate, optimizer.warmup, optimizer.final_fraction)
        torch.manual_seed(_step_seed(self.config.seed, step, self.engine.rank))
        result = self.engine.step(self._parts(step), self.task, rate, wants_stop)
        if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
            what = "gradient" if math.isfinite(result.loss) else "loss"
            raise TrainingError(
                f"the {what} became {result.gradient_norm if what == 'gradient' else result.loss} at step {step}; "
                f"the last checkpoint in {self.run} is from before. Set optimizer.learning_rate lower and start anew."
            )
        progress.step += 1
        progress.loss_sum += result.loss
        progress.loss_steps += 1
        progress.seconds += time.monotonic() - began
        values = {"loss": result.loss, "learning_rate": rate, "gradient_norm": result.gradient_norm}
        monitor.step(progress.step, self.config.batch_size * self.task.units_per_item, values)
        return result.wants_stop

    def _parts(self, step: int) -> list[Batch]:
        """Return this process's share of a step's batch, which is the same batch for any number of processes."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self.task.order(epoch))
        rows = self._order[1][index * self.config.batch_size : (index + 1) * self.config.batch_size]
        inputs, labels = self.task.batch(rows, epoch, step)
        processes = self.engine.processes
        starts = [(part * processes + self.engine.rank) * self.part for part in range(self.config.accumulation)]
        return [(inputs[start : start + self.part], labels[start : start + self.part]) for start in starts]

    def _evaluate(self, monitor: Monitor) -> None:
        progress, began = self.progress, time.monotonic()
        result = self.engine.evaluate(self.task, self.task.held_out("validation"))
        gates = self.engine.observe(self.task)
        epochs = progress.step / self.steps_per_epoch
        progress.curve.append(
            {
                "epoch": int(epochs) if epochs.is_integer() else round(epochs, 4),
                "step": progress.step,
                f"{self.task.unit}": progress.step * self.config.batch_size * self.task.units_per_item,
                "train_loss": progress.loss_sum / max(1, progress.loss_steps),
                **{f"validation_{name}": value for name, value in result.items()},
                "gate_means": {site: float(gate.mean()) for site, gate in gates.items()},
                "seconds": round(progress.seconds, 1),
            }
        )
        shown = {"train_loss": progress.curve[-1]["train_loss"], **result}
        monitor.evaluation(progress.step, shown, gates, time.monotonic() - began)
        progress.loss_sum, progress.loss_steps, progress.seconds = 0.0, 0, 0.0

    def _save(self, test: dict[str, float]) -> Path:
        """Write a checkpoint, unless this very step has one already, which is then not touched."""
        progress, engine = self.progress, self.engine
        folder = self.run / f"step-{progress.step:08d}"
        if progress.step == self._saved_step:
            return folder
        weights = engine.weights()
        optimizer = engine.optimizer_tensors() if progress.step else {}
        if engine.rank == 0:
            training = {
                "recipe": self.config.name,
                "config": jsonable(self.config),
                "seed": self.config.seed,
                "data": self.task.describe(),
                "step": progress.step,
                "steps": self.steps,
                "finished": progress.step == self.steps,
                "loss_sum": progress.loss_sum,
                "loss_steps": progress.loss_steps,
                "seconds": progress.seconds,
                "curve": progress.curve,
                "test": test,
                "made_with": made_with(engine.placement, engine.fabric.device),
            }
            save_checkpoint(
                self.run,
                progress.step,
                Checkpoint(weights, self.config.model, training, optimizer, self.task.samples(), self.task.tokenizer()),
            )
        engine.fabric.barrier()
        self._saved_step = progress.step
        return folder


def total_steps(config: TrainConfig, task: Task) -> int:
    """Return how many steps a run has.

    Raises:
        TrainingError: the batch is larger than the data.
    """
    steps_per_epoch = task.items // config.batch_size
    if steps_per_epoch == 0:
        raise TrainingError(
            f"batch_size {config.batch_size} is above the {task.items:,} training rows: set batch_size lower"
        )
    return config.steps or steps_per_epoch * config.epochs


def train(
    config: TrainConfig,
    task: Task,
    run: Path,
    *,
    placement: Placement | None = None,
    resume: bool = False,
    show_progress: bool = True,
    stop_at: int | None = None,
) -> Outcome:
    """Train into the run folder, from the start or from the folder's newest checkpoint.

    Raises:
        TrainingError: the run cannot start or go on.
        CheckpointError: `resume` is set and the folder has no checkpoint that can be read.
    """
    trainer = Trainer(config, task, run, placement or Placement())
    if resume:
        trainer.resume(read_checkpoint(run))
    return trainer.train(show_progress=show_progress, stop_at=stop_at)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return what torch's generators start from at a step, for models that draw numbers themselves."""
    digest = hashlib.sha256(struct.pack(">qqq", seed, step, rank)).digest()
    return int.from_bytes(digest[:8], "big") >> 1
