"""How often one may look: as often as a small share of the clock allows."""

from collections.abc import Callable
from threading import Lock
from time import monotonic

_LARGEST_SECONDS = 0.05
"""What an idle service saves up: after a pause the first requests are all looked at, for so long."""


class Budget:
    """Time that may be spent on statistics: `share` of the time that passes. For any thread."""

    def __init__(self, share: float, clock: Callable[[], float] = monotonic) -> None:
        """Start with as much as can be saved up; with a share of 0 there is never any."""
        self.share = share
        self._clock = clock
        self._lock = Lock()
        self._credit = _LARGEST_SECONDS if share else 0.0
        self._latest = clock()

    def allows(self) -> bool:
        """Say whether something may be spent now; it may turn out to be more than there is, which is then owed."""
        with self._lock:
            now = self._clock()
            self._credit = min(_LARGEST_SECONDS, self._credit + self.share * (now - self._latest))
            self._latest = now
            return self._credit > 0

    def spend(self, seconds: float) -> None:
        """Take what was spent out of the budget."""
        with self._lock:
            self._credit -= seconds
