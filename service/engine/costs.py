"""What a run costs, learned from the runs so far."""

_LEARNED_DOWN, _LEARNED_UP = 0.5, 0.02
"""Weights of the newest run. What makes a run slow is often somebody else: another process, a busy interpreter."""


class Costs:
    """Seconds of an undisturbed run by the size of its inputs, in powers of two."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seconds: dict[int, float] = {}

    def observe(self, elements: int, seconds: float) -> None:
        """Learn from a run on `elements` numbers."""
        size = elements.bit_length()
        known = self._seconds.get(size, seconds)
        weight = _LEARNED_DOWN if seconds < known else _LEARNED_UP
        self._seconds[size] = known + weight * (seconds - known)

    def predict(self, elements: int) -> float | None:
        """Return the seconds to expect, rather too many than too few; None while nothing comparable has run."""
        size = elements.bit_length()
        known = self._seconds.get(size)
        if known is not None:
            return known
        if not self._seconds:
            return None
        nearest = max((other for other in self._seconds if other < size), default=None)
        if nearest is None:
            return self._seconds[min(self._seconds)]
        # Time grows with the work at most; what a run costs in any case is counted again with each doubling.
        return self._seconds[nearest] * (1 << (size - nearest))
