"""Steps of the graph over the slots: a chunk of prompts, or one token for each row that is being decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.cache_slots import CacheSlots
from service.manifest.language import StepGraph
from service.runtime.step_session import BindingSession

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Bound:
    """A run with the small arrays that are written before it, and the logits that it writes."""

    run: Callable[[], None]
    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    wanted: NDArray[np.int64]
    logits: Floats
    gates: dict[str, Floats]


class Stepper:
    """Runs steps of one model on its slots. Not for several threads at once."""

    def __init__(self, session: BindingSession, graph: StepGraph, vocabulary: int, slots: CacheSlots) -> None:
        """Bind nothing yet."""
        self.slots = slots
        self._session = session
        self._graph = graph
        self.vocabulary = vocabulary
        self.gates: dict[str, Floats] = {}
        """The gate outputs of the latest step that were asked for: (row, token, ...), overwritten like its logits."""
        self._gate_shapes = {spec.name: spec.shape[2:] for spec in graph.graph.outputs if len(spec.shape) > 1}
        self._decoding: dict[tuple[int, int, int, tuple[str, ...]], _Bound] = {}

    @property
    def gate_names(self) -> frozenset[str]:
        """The outputs that may be asked for beside the logits."""
        graph = self._graph
        return frozenset(self._gate_shapes) - {graph.logits, *(tensor.present for tensor in graph.cache)}

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        counts: Sequence[int],
        first: int = 0,
        gates: tuple[str, ...] = (),
    ) -> Floats:
        """Take one token for each row from `first` on; returns the logits (row, vocabulary) that follow.

        A row whose count is 0 stays as it was, but the place behind its tokens is written: it must have one. The
        logits are overwritten by the next step of as many rows.

        Raises:
            ModelFailed: the step could not be run; the rows are as they were.
        """
        stop = first + len(tokens)
        side = self.slots.bring_together(first, stop)
        bound = self._decoding.get((first, stop, side, gates))
        if bound is None:
            bound = self._bind(first, stop, 1, len(tokens), side, gates)
            bound.wanted[:] = range(len(tokens))
            if not gates:  # requests ask for gates in many ways: those would pile up
                self._decoding[first, stop, side, gates] = bound
        bound.tokens[:, 0] = tokens
        bound.lengths[:] = lengths
        bound.counts[:] = counts
        bound.run()
        self.slots.stepped(first, stop)
        self.gates = bound.gates
        return bound.logits

    def prefill(
        self,
        first: int,
        parts: Sequence[Sequence[int]],
        length: int,
        ends: Sequence[bool | range],
        gates: tuple[str, ...] = (),
    ) -> Floats:
        """Take a part of a prompt for each row from `first` on, behind `length` tokens that each has already.

        Returns the logits (n, vocabulary) after the last token of each part that `ends`, or after a range of its
        tokens.
        With more than one row `length` must be 0: the runtime takes no other batches.

        Raises:
            ModelFailed: the step could not be run; the rows are as they were.
        """
        stop, columns = first + len(parts), max(len(part) for part in parts)
        side = self.slots.bring_together(first, stop)
        wanted = [
            row * columns + column
            for row, end in enumerate(ends)
            for column in (end if isinstance(end, range) else range(len(parts[row]) - end, len(parts[row])))
        ]
        bound = self._bind(first, stop, columns, len(wanted), side, gates)
        for row, part in enumerate(parts):
            bound.tokens[row, : len(part)] = part
        bound.lengths[:] = length
        bound.counts[:] = [len(part) for part in parts]
        bound.wanted[:] = wanted
        bound.run()
        self.slots.stepped(first, stop)
        self.gates = bound.gates
        return bound.logits

    def _bind(self, first: int, stop: int, columns: int, wanted: int, side: int, gates: tuple[str, ...]) -> _Bound:
        graph, rows = self._graph, stop - first
        tokens, ends = np.zeros((rows, columns), np.int64), np.zeros(wanted, np.int64)
        lengths, counts = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        logits = np.zeros((wanted, self.vocabulary), np.float32)
        past, present = self.slots.step_arrays(first, stop, side)
        small = {graph.tokens: tokens, graph.lengths: lengths, graph.counts: counts, graph.wanted: ends}
        asked = {name: np.zeros((rows, columns, *self._gate_shapes[name]), np.float32) for name in gates}
        run = self._session.bind({**small, **past}, {graph.logits: logits, **present, **asked})
        return _Bound(run, tokens, lengths, counts, ends, logits, asked)
