"""What the loop knows of a run's data and loss: one face for images and text."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ddl_model.observe import Observer

Batch = tuple[Tensor, Tensor]
"""Inputs and labels, rows first."""


class Task(Protocol):
    """The data of one run and how they are measured. Whatever is random is a function of seed, epoch and step."""

    items: int
    """Rows in an epoch."""
    unit: str
    """What a row consists of: `images` or `tokens`."""
    units_per_item: int

    def describe(self) -> dict[str, Any]:
        """Return what identifies the data in `training.json`: name, counts and SHA-256."""
        ...

    def order(self, epoch: int) -> Tensor:
        """Return the order (items,) in which an epoch visits the rows."""
        ...

    def batch(self, items: Tensor, epoch: int, step: int) -> Batch:
        """Return rows as they are trained on at a step."""
        ...

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a part of a batch, in nats."""
        ...

    def held_out(self, split: str) -> Sequence[Callable[[], Batch]]:
        """Return what makes the batches of `validation` (while training) or `test` (at the end)."""
        ...

    def measure(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return sums over a batch, float64, which `metrics` turns into numbers after they were added up."""
        ...

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Return loss, accuracy and whatever else the sums say."""
        ...

    def observe(self, model: nn.Module, observer: Observer) -> None:
        """Run the model over a few held-out rows with an observer."""
        ...

    def samples(self) -> dict[str, Tensor]:
        """Return held-out model inputs that go into a checkpoint, to try the model on; empty where there are none."""
        ...

    def tokenizer(self) -> str:
        """Return the content of `tokenizer.json`; empty where there is none."""
        ...
