"""Counts by time: the last hour by minutes, the last day by hours."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import InvalidFields
from service.gates.live.histograms import Counts, GateCounts, Sums

_SHORTEST, _LONGEST_MINUTES, _LONGEST_HOURS = 1, 60, 24


class Window(NamedTuple):
    """The last `slots` slots of `seconds` each, the one that runs included."""

    name: str
    seconds: int
    slots: int


HOUR = Window("1h", 60, 60)


def parse_window(text: str) -> Window:
    """Return the window that `15m` or `6h` names.

    Raises:
        InvalidFields: it is none of 1m to 60m and 1h to 24h.
    """
    found = re.fullmatch(r"([0-9]{1,2})([mh])", text)
    number = int(found[1]) if found else 0
    if found is not None and number >= _SHORTEST:
        if found[2] == "m" and number <= _LONGEST_MINUTES:
            return Window(text, 60, number)
        if found[2] == "h" and number <= _LONGEST_HOURS:
            return Window(text, 60, 60) if number == 1 else Window(text, 3600, number)
    raise InvalidFields(f"window must be 1m to 60m or 1h to 24h, got {text[:32]!r}")


@dataclass
class Slot:
    """What was seen in one piece of time, which began `start` seconds after the epoch."""

    start: int
    fine: Counts
    sums: Sums
    runs: int = 0
    sequences: int = 0
    tokens: int = 0
    nonfinite: int = 0

    @classmethod
    def empty(cls, start: int, sites: int) -> "Slot":
        """Return a slot in which nothing was seen."""
        zero = GateCounts.zero(sites)
        return cls(start, zero.fine, zero.sums)

    def add(self, fine: Counts, sums: Sums, *, runs: int, sequences: int, tokens: int, nonfinite: int) -> None:
        """Count more of what was seen; `fine` is (site, bin), `sums` of the values (site,)."""
        self.fine += fine
        self.sums += sums
        self.runs += runs
        self.sequences += sequences
        self.tokens += tokens
        self.nonfinite += nonfinite


class Windows:
    """Slots of the last day, which is forgotten as time goes on: 1 MB for 24 sites. Not for several threads."""

    def __init__(self, sites: int) -> None:
        """Start without a slot."""
        self._sites = sites
        self._kept: dict[int, dict[int, Slot]] = {60: {}, 3600: {}}

    def add(self, now: float, counts: GateCounts, *, sequences: int, tokens: int) -> None:
        """Count a run at `now`, in seconds after the epoch."""
        for seconds, slots in self._kept.items():
            index = int(now) // seconds
            if index not in slots:
                slots[index] = Slot.empty(index * seconds, self._sites)
                longest = _LONGEST_MINUTES if seconds == 60 else _LONGEST_HOURS
                for old in [other for other in slots if other <= index - longest]:
                    del slots[old]
            seen = {"sequences": sequences, "tokens": tokens, "nonfinite": counts.nonfinite}
            slots[index].add(counts.fine, counts.sums, runs=1, **seen)

    def slots(self, window: Window, now: float) -> Iterator[Slot]:
        """Yield what was seen in a window, the oldest slot first."""
        first = int(now) // window.seconds - window.slots
        yield from (slot for index, slot in sorted(self._kept[window.seconds].items()) if index > first)

    def total(self, window: Window, now: float) -> Slot:
        """Return all slots of a window as one; `start` is that of the oldest, or 0 where there is none."""
        slots = list(self.slots(window, now))
        total = Slot.empty(slots[0].start if slots else 0, self._sites)
        for slot in slots:
            seen = {"runs": slot.runs, "sequences": slot.sequences, "tokens": slot.tokens, "nonfinite": slot.nonfinite}
            total.add(slot.fine, slot.sums, **seen)
        return total
