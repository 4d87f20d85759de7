"""What a person sees of a run: the progress bar, and TensorBoard logs in the run folder."""

import time
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

LOGS = "logs"
"""Folder of the TensorBoard logs inside a run folder."""
_LOG_SECONDS = 1.0
"""Steps are logged no more often than this; evaluations always."""


class Monitor:
    """Shows progress and logs it. On processes other than the first it does nothing."""

    def __init__(self, run: Path, steps: int, unit: str, *, active: bool, show_progress: bool) -> None:
        """Prepare for a run of `steps` steps, whose speed is told in `unit` per second."""
        self._run, self._steps, self._unit = run, steps, unit
        self._active, self._show = active, active and show_progress
        self._writer: SummaryWriter | None = None
        self._bar: tqdm[Any] = tqdm(disable=True)
        self._units, self._began, self._last_log = 0, 0.0, 0.0

    def start(self, step: int) -> Self:
        """Begin at a step; what an earlier run logged from there on is dropped."""
        if self._active:
            self._writer = SummaryWriter(str(self._run / LOGS), purge_step=step if step else None)
        self._bar = tqdm(total=self._steps, initial=step, unit="step", disable=not self._show, dynamic_ncols=True)
        self._units, self._began, self._last_log = 0, time.monotonic(), 0.0
        return self

    def step(self, step: int, units: int, values: dict[str, float]) -> None:
        """Show a step of so many units (tokens or images)."""
        now = time.monotonic()
        self._units += units
        speed = self._units / max(1e-9, now - self._began)
        self._bar.set_postfix_str(f"loss={values['loss']:.3f}, {speed:,.0f} {self._unit}/s", refresh=False)
        self._bar.update()
        if self._writer and (now - self._last_log >= _LOG_SECONDS or step == self._steps):
            self._last_log = now
            for name, value in {**values, f"{self._unit}_per_second": speed}.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def evaluation(self, step: int, values: dict[str, float], gates: dict[str, Tensor], seconds: float) -> None:
        """Show and log what an evaluation after `step` steps said, which took `seconds`."""
        self._began += seconds
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        if self._show:
            self._bar.write(f"step {step:,}: {text}")
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(f"validation/{name}", value, step)
            for site, gate in gates.items():
                self._writer.add_histogram(f"gates/{site}", gate, step)
            self._writer.flush()

    def close(self) -> None:
        """End the bar and the log."""
        self._bar.close()
        if self._writer:
            self._writer.close()
