"""How jobs end, each exactly once, and what is booked for it."""

import logging
from collections.abc import Callable

from service.engine.job import Job, Outcome
from service.engine.scheduler import Step
from service.engine.statistics import Statistics
from service.errors import CallerGone, DeadlinePassed, ServiceError

_logger = logging.getLogger(__name__)


def finish(job: Job, outcome: Outcome) -> None:
    """Hand out an outcome; what goes wrong there is the trouble of this job alone."""
    try:
        job.finish(outcome)
    except Exception:
        _logger.exception("an answer could not be handed out")


class Endings:
    """The ends of jobs that get no answer."""

    def __init__(self, statistics: Statistics, clock: Callable[[], float]) -> None:
        """Book into `statistics` by `clock`, in seconds."""
        self._statistics = statistics
        self._clock = clock

    def fail(self, job: Job, error: ServiceError) -> None:
        """Tell a job why it gets no answer."""
        self._statistics.fail.add(self._clock() - job.arrived)
        finish(job, error)

    def cancel(self, job: Job) -> None:
        """End a job for which nobody waits."""
        self._statistics.cancel.add(self._clock() - job.arrived)
        finish(job, CallerGone("the caller hung up while its request waited"))

    def give_up(self, step: Step) -> None:
        """End the jobs of a step that are gone or expired."""
        for job in step.gone:
            self.cancel(job)
        for job in step.expired:
            self._statistics.expired += 1
            waited_ms = (self._clock() - job.arrived) * 1000
            self.fail(job, DeadlinePassed(f"the request's time was over after {waited_ms:.0f} ms in the queue"))
