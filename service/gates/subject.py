"""What is traced: a model's whole graph, one input at a time, so that no padding can leak into another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, Classification, Gates, Manifest
from service.errors import CaptureUnavailable, ModelFailed
from service.gates.head import Head, read_head
from service.runtime.session import Session
from service.text import TextTokenizer


@dataclass(eq=False)
class Subject:
    """A model version as the gates API sees it; `tokenizer` is None for classifiers and where the bundle has none."""

    bundle: Bundle
    session: Session
    tokenizer: TextTokenizer | None = None

    @property
    def manifest(self) -> Manifest:
        """The bundle's description."""
        return self.bundle.manifest

    @cached_property
    def gates(self) -> Gates:
        """What the rewrites tell.

        Raises:
            CaptureUnavailable: the bundle was exported without gate outputs.
        """
        gates = self.manifest.gates
        if gates is None or not gates.outputs:
            raise CaptureUnavailable(f"{self.manifest.name!r} was exported without gate outputs; predictions work")
        return gates

    @cached_property
    def head(self) -> Head | None:
        """How states are read; read from the bundle when it is first needed."""
        return read_head(self.bundle)

    @property
    def over_tokens(self) -> bool:
        """Whether the head mixes the states of several tokens."""
        return self.head is not None and self.head.over_tokens

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes of a classifier; None for a language model."""
        task = self.manifest.task
        return task.labels if isinstance(task, Classification) else None

    @property
    def vocabulary(self) -> int | None:
        """How many tokens a language model knows; None for a classifier."""
        task = self.manifest.task
        return None if isinstance(task, Classification) else task.vocabulary

    @property
    def feed(self) -> str:
        """Name of the graph's input."""
        return self.manifest.graph.inputs[0].name

    @property
    def answer(self) -> str:
        """Name of the graph's output of logits, or of probabilities where a classifier has no logits."""
        task = self.manifest.task
        if not isinstance(task, Classification):
            return task.logits
        names = {spec.name for spec in self.manifest.graph.outputs}
        return "logits" if "logits" in names else task.probabilities

    @cached_property
    def fixed_positions(self) -> int | None:
        """How many positions every input has, or None where it is as many as tokens.

        Raises:
            CaptureUnavailable: neither the grid nor the graph says it.
        """
        if self.gates.positions.kind == "token":
            return None
        if self.gates.positions.grid is not None:
            rows, columns = self.gates.positions.grid
            return rows * columns
        carried = self.gates.carried
        counts = {spec.shape[1] for spec in self.manifest.graph.outputs if spec.name in carried}
        if -1 in counts or len(counts) != 1:
            raise CaptureUnavailable(f"{self.manifest.name!r} does not say how many positions its gates have")
        return counts.pop()


@dataclass(frozen=True, eq=False)
class Input:
    """One input: the array for the graph (1, ...), how many positions it has, its tokens if it has any."""

    feed: NDArray[Any]
    positions: int
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """What one run captured: arrays (site, position, ...) by name, directions (site, position, d), the first state.

    `logits` are (position, words) or, of a classifier, (1, classes) with their log-probabilities. `erase` and `write`
    are 0 where an intervention left that out.
    """

    outputs: dict[str, NDArray[Any]]
    logits: NDArray[Any]
    directions: NDArray[Any] | None = None
    first: NDArray[Any] | None = None
    erase: NDArray[Any] | None = None
    write: NDArray[Any] | None = None


def run(
    subject: Subject,
    one: Input,
    captured: Sequence[str],
    *,
    states: bool,
    overrides: NDArray[np.float32] | None = None,
    seconds: float | None = None,
) -> Run:
    """Run the graph on one input; `overrides` are (site, position, 6).

    Raises:
        ModelFailed: the graph did not run in time, or gave another number of positions than promised.
    """
    gates = subject.gates
    wanted = [subject.answer, *(name for quantity in captured for name in gates.outputs[quantity])]
    if states:
        assert gates.depth is not None
        wanted += [*gates.depth.directions, gates.depth.first_state]
    feeds: dict[str, NDArray[Any]] = {subject.feed: one.feed}
    if overrides is not None:
        feeds |= {name: overrides[None, site] for site, name in enumerate(gates.overrides)}
    outputs = subject.session.run(feeds, wanted, seconds=seconds)
    stacks = {quantity: _stack([outputs[name] for name in gates.outputs[quantity]], one) for quantity in captured}
    directions = first = None
    if states and gates.depth is not None:
        directions = _stack([outputs[name] for name in gates.depth.directions], one)
        first = outputs[gates.depth.first_state][0]
    logits = _as_logits(subject, outputs[subject.answer][0])
    erase = None if overrides is None else overrides[..., 4]
    write = None if overrides is None else overrides[..., 5]
    return Run(stacks, logits, directions, first, erase, write)


def logits_of(
    subject: Subject, one: Input, overrides: NDArray[np.float32], *, seconds: float | None = None
) -> list[NDArray[Any]]:
    """Return the logits of one input under many overrides (variant, site, position, 6), each as `Run.logits`.

    Raises:
        ModelFailed: the graph did not run in time.
    """
    feeds: dict[str, NDArray[Any]] = {subject.feed: np.repeat(one.feed, len(overrides), 0)}
    feeds |= {name: overrides[:, site] for site, name in enumerate(subject.gates.overrides)}
    rows = subject.session.run(feeds, [subject.answer], seconds=seconds)[subject.answer]
    return [_as_logits(subject, row) for row in rows]


def _as_logits(subject: Subject, row: NDArray[Any]) -> NDArray[Any]:
    if subject.labels is None:
        return row
    with np.errstate(divide="ignore"):
        return row[None] if subject.answer == "logits" else np.log(row)[None]


def _stack(arrays: Sequence[NDArray[Any]], one: Input) -> NDArray[Any]:
    """Stack the outputs (1, position, ...) of all sites to (site, position, ...)."""
    for array in arrays:
        if array.shape[1] != one.positions:
            raise ModelFailed(f"a gate output has {array.shape[1]} positions, the manifest promises {one.positions}")
    return np.stack([array[0] for array in arrays])
