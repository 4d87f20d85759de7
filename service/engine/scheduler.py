"""Which jobs run next, and when: decisions from the queue, the limits and a clock value alone."""

from collections import deque
from dataclasses import dataclass, field

from service.engine.hold import Hold
from service.engine.job import BatchLimits, Job


@dataclass(slots=True)
class Step:
    """What to do now: run `batch`, give up the jobs that are `gone` or `expired`, and look again at `wake_at`."""

    batch: list[Job] = field(default_factory=list)
    gone: list[Job] = field(default_factory=list)
    expired: list[Job] = field(default_factory=list)
    wake_at: float | None = None


class Scheduler:
    """The queue of one model. Jobs of a level go first come, first served; a higher level goes first."""

    def __init__(self, limits: BatchLimits) -> None:
        """Start with an empty queue."""
        self._limits = limits
        self._levels: list[deque[Job]] = [deque() for _ in range(limits.priorities)]
        self._hold = Hold()
        self._rows = 0
        self._jobs = 0

    def __len__(self) -> int:
        """Jobs that wait, also those whose callers have gone unnoticed."""
        return self._jobs

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def first_deadline(self) -> float | None:
        """The earliest deadline in the queue."""
        return min((job.deadline for level in self._levels for job in level if job.deadline is not None), default=None)

    def add(self, job: Job) -> None:
        """Put a job at the end of its level."""
        self._levels[self._limits.level(job.priority)].append(job)
        self._jobs += 1
        self._rows += job.rows

    def put_back(self, jobs: list[Job]) -> None:
        """Put jobs at the head of their levels, in their order."""
        for job in reversed(jobs):
            self._levels[self._limits.level(job.priority)].appendleft(job)
            self._jobs += 1
            self._rows += job.rows

    def discard(self, job: Job) -> bool:
        """Take a job out; False if it is not in the queue."""
        level = self._levels[self._limits.level(job.priority)]
        if job not in level:
            return False
        level.remove(job)
        self._drop(job)
        return True

    def clear(self) -> list[Job]:
        """Take every job out."""
        jobs = [job for level in self._levels for job in level]
        for job in jobs:
            self.discard(job)
        return jobs

    def answered(self, now: float, seconds: float, rows: int) -> None:
        """A batch of `rows` has ended after `seconds`: the next may be held back for its callers."""
        self._hold.answered(now, seconds, rows, self._rows)

    def sweep(self, now: float) -> Step:
        """Take out the jobs for which nobody waits or whose time is over; start nothing."""
        step = Step()
        for level in self._levels:
            for _ in range(len(level)):
                job = level.popleft()
                if not self._is_over(job, now, step):
                    level.append(job)
        step.wake_at = self.first_deadline
        return step

    def next(self, now: float) -> Step:
        """Decide for a worker that is free."""
        if not self._jobs:
            return Step()
        ready_at = max(self._hold.until(self._rows), self._wait_until())
        if now < ready_at and self._rows < self._limits.max_rows:
            step = self.sweep(now)
            step.wake_at = ready_at if step.wake_at is None else min(ready_at, step.wake_at)
            return step
        self._hold.ended(self._rows)
        return self._take(now)

    def _wait_until(self) -> float:
        """Return when the oldest job has waited for others long enough."""
        limits = self._limits
        if not limits.max_wait_ms or (limits.preferred_rows and self._rows >= limits.preferred_rows[0]):
            return 0.0
        oldest = min(level[0].arrived for level in self._levels if level)
        return oldest + limits.max_wait_ms / 1000

    def _take(self, now: float) -> Step:
        """Form a batch: the first job, and the next ones that may run with it as long as they fit."""
        step = Step()
        most = max((size for size in self._limits.preferred_rows if size <= self._rows), default=self._limits.max_rows)
        rows = 0
        for level in self._levels:
            passed_over: list[Job] = []
            while level and rows < most:
                job = level.popleft()
                if self._is_over(job, now, step):
                    continue
                if step.batch and (job.key is None or job.key != step.batch[0].key):
                    passed_over.append(job)
                    continue
                if step.batch and rows + job.rows > most:
                    passed_over.append(job)
                    break
                step.batch.append(job)
                rows += job.rows
                self._drop(job)
                if job.key is None:
                    most = 0
            level.extendleft(reversed(passed_over))
        return step

    def _is_over(self, job: Job, now: float, step: Step) -> bool:
        if job.gone():
            step.gone.append(job)
        elif job.deadline is not None and job.deadline <= now:
            step.expired.append(job)
        else:
            return False
        self._drop(job)
        return True

    def _drop(self, job: Job) -> None:
        self._jobs -= 1
        self._rows -= job.rows
