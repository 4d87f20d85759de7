"""A batch that has run: every job gets its own rows, or another try alone, and the run is booked."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from service.engine.admission import Admission
from service.engine.costs import Costs
from service.engine.endings import Endings, finish
from service.engine.execution import Run, split
from service.engine.job import Job
from service.engine.scheduler import Scheduler
from service.engine.statistics import BatchTimes, Statistics
from service.errors import ServiceError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that run together from `began` on, filled up to `padded` rows; `elements` counts the inputs' numbers."""

    jobs: list[Job]
    rows: int
    padded: int
    elements: int
    began: float


class Answering:
    """Hands out what runs gave. `closed` is set when nothing may be tried again."""

    def __init__(
        self,
        scheduler: Scheduler,
        endings: Endings,
        costs: Costs,
        admission: Admission,
        statistics: Statistics,
        clock: Callable[[], float],
    ) -> None:
        """Put back into `scheduler` what is tried again; costs, admission and statistics learn from each run."""
        self._scheduler = scheduler
        self._endings = endings
        self._costs = costs
        self._admission = admission
        self._statistics = statistics
        self._clock = clock
        self.closed = False

    def answer(self, batch: Batch, run: Run) -> None:
        """Give each job its outcome, or another try alone if the batch failed."""
        start = self._clock()
        jobs = batch.jobs
        try:
            outcomes = split(run.outputs, jobs, batch.padded)
        except ServiceError as error:
            self._try_alone(batch, error)
            return
        arrived = 0.0
        for job, outcome in zip(jobs, outcomes, strict=True):
            arrived += job.arrived
            finish(job, outcome)
        end = self._clock()
        self._costs.observe(batch.elements, run.infer_seconds)
        self._admission.observe(end - batch.began, batch.rows)
        times = BatchTimes(run.input_seconds, run.infer_seconds, end - start)
        self._statistics.ran(len(jobs), batch.rows, len(jobs) * batch.began - arrived, times)
        self._statistics.success.add(len(jobs) * end - arrived, len(jobs))

    def _try_alone(self, batch: Batch, error: ServiceError) -> None:
        """Find out whose fault it was: one bad request must not cost its neighbours their answers."""
        if self.closed or (len(batch.jobs) == 1 and batch.padded == batch.rows):
            for job in batch.jobs:
                self._endings.fail(job, error)
            return
        _logger.warning("a batch failed, its requests run alone", extra={"fields": {"error": str(error)}})
        for job in batch.jobs:
            job.key = None
        self._scheduler.put_back(batch.jobs)
