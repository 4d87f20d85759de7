"""Who may join a queue: as many as the limit says, and what is said to the others."""

import math

from service.engine.endings import Endings
from service.engine.job import BatchLimits
from service.engine.scheduler import Scheduler
from service.engine.statistics import Statistics
from service.errors import Overloaded

_LONGEST_RETRY_SECONDS = 60
_SMOOTHING = 0.1


class Admission:
    """Bounds one scheduler's queue, and knows how fast it is worked off."""

    def __init__(
        self, scheduler: Scheduler, endings: Endings, statistics: Statistics, limits: BatchLimits, instances: int
    ) -> None:
        """Know nothing yet of how long a row takes; `instances` batches run at once."""
        self._scheduler = scheduler
        self._endings = endings
        self._statistics = statistics
        self._limits = limits
        self._instances = instances
        self.row_seconds = 0.0
        """Seconds of a batch for each of its rows, smoothed over batches."""

    def observe(self, seconds: float, rows: int) -> None:
        """Learn from a batch."""
        self.row_seconds += _SMOOTHING * (seconds / rows - self.row_seconds)

    def check(self, now: float, *, worker_is_free: bool) -> None:
        """Let one more come; if the queue is full, the jobs that nobody waits for are thrown out first.

        Raises:
            Overloaded: they all have their callers.
        """
        limits = self._limits
        if len(self._scheduler) < limits.queue_limit:
            return
        # A free worker takes what waits in a moment: a whole batch may come even where nothing may wait for long.
        limit = max(limits.queue_limit, limits.max_rows if worker_is_free else 0)
        if len(self._scheduler) < limit:
            return
        self._endings.give_up(self._scheduler.sweep(now))
        if len(self._scheduler) < limit:
            return
        self._statistics.rejected += 1
        self._statistics.fail.add(0.0)
        seconds = self._scheduler.rows * self.row_seconds / self._instances
        raise Overloaded(
            f"{len(self._scheduler)} requests wait already; try again later",
            retry_after_seconds=max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(seconds))),
        )
