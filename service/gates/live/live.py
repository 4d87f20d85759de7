"""The live statistics of one model version."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from time import perf_counter, time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gates.drift import Judgement, Status, judge
from service.gates.live.budget import Budget
from service.gates.live.histograms import GateCounts, count_gates
from service.gates.live.windows import HOUR, Slot, Window, Windows
from service.gates.reference import Reference
from service.manifest.gates import Gates

_logger = logging.getLogger(__name__)

_RUN_SHARE = 0.1
"""What computing the gates of a run is taken to cost, as a part of the run; it is 2 % for the shipped classifier."""

_REMEMBERED = 4096
"""Texts that are known again: their later tokens are not those of another text."""


@dataclass(frozen=True)
class Totals:
    """Everything since the version was opened."""

    counts: GateCounts
    runs: int
    sequences: int
    judgement: Judgement


class LiveGates:
    """Counts the gates of sampled runs. It is the `TokenProbe` of its model; for any thread."""

    def __init__(
        self, gates: Gates, reference: Reference | None, budget: Budget, clock: Callable[[], float] = time
    ) -> None:
        """Start with nothing seen; `clock` tells the seconds since the epoch."""
        self.gates = gates
        self.reference = reference
        self.status_since: float | None = None
        self._names = gates.outputs["beta"]
        self._budget = budget
        self._clock = clock
        self._lock = Lock()
        self._counts = GateCounts.zero(len(gates.sites))
        self._windows = Windows(len(gates.sites))
        self._runs = self._sequences = 0
        self._known: OrderedDict[int, None] = OrderedDict()
        self._status: Status | None = None

    def outputs(self) -> tuple[str, ...]:
        """See `Probe`."""
        return self._names if self._budget.allows() else ()

    def take(self, values: Mapping[str, NDArray[Any]], rows: int, seconds: float) -> None:
        """See `Probe`: each row is a sequence."""
        self._take(lambda: np.stack([values[name][:rows].reshape(-1) for name in self._names]), lambda: rows, seconds)

    def take_tokens(
        self, values: Mapping[str, NDArray[Any]], counts: Sequence[int], sequences: Sequence[int], seconds: float
    ) -> None:
        """See `TokenProbe`: several steps may be of one sequence."""

        def stack() -> NDArray[np.float32]:
            columns = values[self._names[0]].shape[1]
            real = np.arange(columns) < np.array(counts)[:, None]
            return np.stack([values[name][real].reshape(-1) for name in self._names])

        def count_new() -> int:
            seen = {sequence for sequence, count in zip(sequences, counts, strict=True) if count}
            new = len(seen - self._known.keys())
            for sequence in seen:
                self._known[sequence] = None
                self._known.move_to_end(sequence)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return new

        self._take(stack, count_new, seconds)

    def totals(self) -> Totals:
        """Return what was counted, and what the last hour comes to."""
        judgement = self.judgement(self.window(HOUR))
        with self._lock:
            counts = GateCounts.zero(len(self.gates.sites))
            counts.add(self._counts)
            return Totals(counts, self._runs, self._sequences, judgement)

    def window(self, window: Window) -> Slot:
        """Return what was counted in a window that ends now."""
        with self._lock:
            return self._windows.total(window, self._clock())

    def slots(self, window: Window) -> list[Slot]:
        """Return the pieces of a window in which something was counted, the oldest first."""
        with self._lock:
            slots = self._windows.slots(window, self._clock())
            return [replace(slot, fine=slot.fine.copy(), sums=slot.sums.copy()) for slot in slots]

    def judgement(self, seen: Slot) -> Judgement:
        """Compare what was seen with the reference."""
        return judge(seen.fine, seen.sequences, seen.tokens, self.reference)

    def current(self) -> tuple[Status, float]:
        """Return the status of the last hour, and since when it is known to be that, in seconds since the epoch."""
        status = self.judgement(self.window(HOUR)).status
        with self._lock:
            if status != self._status or self.status_since is None:
                self._status, self.status_since = status, self._clock()
            return status, self.status_since

    def _take(self, stack: Callable[[], NDArray[np.float32]], sequences: Callable[[], int], run_seconds: float) -> None:
        start = perf_counter()
        try:
            values = stack()
            counts = count_gates(values)
            with self._lock:
                new = sequences()
                self._counts.add(counts)
                self._runs += 1
                self._sequences += new
                self._windows.add(self._clock(), counts, sequences=new, tokens=values.shape[1])
        except Exception:  # a prediction must not fail for its statistics
            _logger.exception("gates of a run could not be counted")
        self._budget.spend(perf_counter() - start + _RUN_SHARE * run_seconds)
