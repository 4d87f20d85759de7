"""A short hold after a batch, for the callers just answered: they are about to ask again."""

_FRACTION = 0.06
"""Of the last batch's time: what a hold may cost."""
_SHORTEST_SECONDS = 0.0005
"""Below this the timers of an event loop are too coarse."""
_LONGEST_SECONDS = 0.01
_LEARNED = 0.3
"""Weight of the newest hold in what is known about callers."""
_WORTH = 0.25
"""Share of callers that must come back in time, else holds are a loss."""
_PROBE_EVERY = 16
"""Batches after which a hold that did not pay is tried again."""


class Hold:
    """Decides how long a free worker waits after a batch, and learns from what came.

    Callers who ask again as soon as they are answered would else form two groups that take turns, each with half the
    batch. Where callers come at random a hold brings nothing; that is noticed, and holds are then only tried at times.
    """

    def __init__(self) -> None:
        """Expect callers to come back."""
        self._back = 1.0
        self._unheld = 0
        self._until = 0.0
        self._answered = 0
        self._before = 0

    def answered(self, now: float, seconds: float, rows: int, waiting_rows: int) -> None:
        """A batch of `rows` that took `seconds` has been answered, while `waiting_rows` were in the queue."""
        self._answered = 0
        length = min(seconds * _FRACTION, _LONGEST_SECONDS)
        if length < _SHORTEST_SECONDS:
            return
        if self._back < _WORTH:
            self._unheld += 1
            if self._unheld < _PROBE_EVERY:
                return
        self._unheld = 0
        self._until, self._answered, self._before = now + length, rows, waiting_rows

    def until(self, waiting_rows: int) -> float:
        """Return the time up to which a batch should be held; it is in the past as soon as all callers are back."""
        back = waiting_rows - self._before
        return self._until if self._answered and back < self._answered else 0.0

    def ended(self, waiting_rows: int) -> None:
        """A batch is formed out of `waiting_rows`: learn how many came back."""
        if self._answered:
            share = min(1.0, max(0.0, (waiting_rows - self._before) / self._answered))
            self._back += _LEARNED * (share - self._back)
            self._answered = 0
