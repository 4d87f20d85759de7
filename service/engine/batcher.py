"""Dynamic batching: requests that arrive together run together."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from service.engine.alarm import Alarm
from service.engine.costs import Costs
from service.engine.endings import Endings, finish
from service.engine.execution import Run, execute, split
from service.engine.job import BatchLimits, Job, Outcome
from service.engine.mixing import Mixing
from service.engine.scheduler import Scheduler
from service.engine.statistics import BatchTimes, Statistics
from service.errors import ModelNotReady, Overloaded, ServiceError
from service.gates.live.probe import Probe
from service.manifest.tensors import Graph
from service.runtime.session import Session

_logger = logging.getLogger(__name__)
_INLINE_SECONDS = 0.002
"""A run that takes less is not worth a change of threads; the event loop can do without that time."""
_LONGEST_RETRY_SECONDS = 60
_SMOOTHING = 0.1


class Batcher:
    """Runs the jobs of one model in batches. All methods belong to the event loop.

    A cheap batch runs on the loop itself, once in a turn of it: what arrived in the last turn is a batch. A dear one
    runs in a worker thread, one for each session; what arrives meanwhile is the next batch.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        graph: Graph,
        limits: BatchLimits,
        *,
        clock: Callable[[], float] = perf_counter,
        statistics: Statistics | None = None,
    ) -> None:
        """Take one session for each batch that may run at the same time; the same one may stand there several times."""
        self.limits = limits
        self.statistics = statistics or Statistics()
        self.probe: Probe | None = None
        """Who looks at some of the runs; set before the first."""
        self._clock = clock
        self._free = list(sessions)
        self._instances = len(sessions)
        self._scheduler = Scheduler(limits)
        self._endings = Endings(self.statistics, clock)
        self._costs = Costs()
        self._pool = ThreadPoolExecutor(len(sessions), thread_name_prefix="batch")
        self._mixing = Mixing(graph)
        self._alarm = Alarm(self._turn, clock)
        self._is_cheap = False
        self._row_seconds = 0.0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._scheduler)

    @property
    def running(self) -> int:
        """Batches that run."""
        return self._instances - len(self._free)

    def submit(self, job: Job) -> None:
        """Queue a job; it is finished in a later turn of the event loop.

        Raises:
            Overloaded: the queue is full.
            ModelNotReady: the batcher is closed.
        """
        now = self._clock()
        if self._closed:
            raise _unloaded()
        if len(self._scheduler) >= self.limits.queue_limit:
            self._make_room(now)
        job.arrived = now
        if job.deadline is None and self.limits.default_timeout_ms:
            job.deadline = now + self.limits.default_timeout_ms / 1000
        job.key = self._mixing.key(job)
        self._scheduler.add(job)
        self._idle.clear()
        if self._free:
            self._alarm.soon()
        elif job.deadline is not None:
            self._alarm.at(job.deadline)

    async def run(
        self,
        feeds: dict[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        rows: int | None = None,
        priority: int = 0,
        timeout_seconds: float | None = None,
        gone: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run a request's rows and return the named outputs.

        Args:
            feeds: every input of the graph, checked against its shape; the same number of rows in each.
            outputs: names of outputs.
            rows: their number, where the caller knows it.
            priority: 1 goes first, 0 is the default.
            timeout_seconds: longest time in the queue.
            gone: ends when nobody waits for the answer any more; a request that still waits is dropped then. Not
                looked at where the answer comes with the next turn of the event loop.

        Raises:
            Overloaded: the queue is full.
            DeadlinePassed: the time in the queue was over.
            CallerGone: `gone` ended while the request was waiting.
            ModelFailed: the model could not be run on these rows.
            ModelNotReady: the model has been unloaded.
        """
        future: asyncio.Future[dict[str, NDArray[Any]]] = asyncio.get_running_loop().create_future()
        count = len(next(iter(feeds.values()))) if rows is None else rows
        deadline = None if timeout_seconds is None else self._clock() + timeout_seconds
        job = Job(feeds, tuple(outputs), count, partial(_settle, future), future.done, priority, deadline)
        self.submit(job)
        if gone is None or self._is_cheap:
            return await self._answer_of(job, future)
        watcher = asyncio.ensure_future(gone())
        watcher.add_done_callback(lambda _: self.forget(job))
        try:
            return await self._answer_of(job, future)
        finally:
            watcher.cancel()

    def forget(self, job: Job) -> None:
        """Give up a job whose caller has gone: it leaves the queue, or its answer is thrown away."""
        if self._scheduler.discard(job):
            self._endings.cancel(job)
            self._settle_idle()

    async def drain(self) -> None:
        """Wait until everything that was submitted is finished, then refuse what comes."""
        await self._idle.wait()
        self.close()

    def close(self) -> None:
        """Refuse what comes and what waits; batches that run are still answered."""
        self._closed = True
        for job in self._scheduler.clear():
            self._endings.fail(job, _unloaded())
        self._alarm.stop()
        self._settle_idle()
        self._pool.shutdown(wait=False)

    async def _answer_of(self, job: Job, future: "asyncio.Future[dict[str, NDArray[Any]]]") -> dict[str, NDArray[Any]]:
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(job)
            raise

    def _turn(self) -> None:
        """Start what can be started: one batch on the event loop, or one for each free session in threads."""
        now = self._clock()
        step = None
        while self._free:
            step = self._scheduler.next(now)
            self._endings.give_up(step)
            if not step.batch:
                break
            if self._start(step.batch, now):
                if self._scheduler:
                    self._alarm.soon()
                break
        else:  # every worker is busy: only the time of those who wait may run out
            step = self._scheduler.sweep(now)
            self._endings.give_up(step)
        if step.wake_at is not None:
            self._alarm.at(step.wake_at)
        self._settle_idle()

    def _start(self, batch: list[Job], now: float) -> bool:
        """Run a batch here if it is cheap, and say so; else hand it to a thread."""
        rows = sum(job.rows for job in batch)
        padded = rows if batch[0].key is None else self.limits.padded(rows)
        elements = padded * sum(array.size for array in batch[0].feeds.values()) // max(1, batch[0].rows)
        expected = self._costs.predict(elements)
        self._is_cheap = expected is not None and expected < _INLINE_SECONDS
        if self._is_cheap:
            self._answer(batch, padded, execute(self._free[-1], batch, padded, self.probe), now, elements)
            return True
        session = self._free.pop()
        future = asyncio.get_running_loop().run_in_executor(self._pool, execute, session, batch, padded, self.probe)
        future.add_done_callback(partial(self._ended, session, batch, padded, now, elements))
        return False

    def _ended(
        self, session: Session, batch: list[Job], padded: int, began: float, elements: int, future: asyncio.Future[Run]
    ) -> None:
        self._free.append(session)
        rows = self._answer(batch, padded, future.result(), began, elements)
        now = self._clock()
        self._scheduler.answered(now, now - began, rows)
        self._alarm.soon()

    def _answer(self, batch: list[Job], padded: int, run: Run, began: float, elements: int) -> int:
        """Give each job its outcome, or another try alone if the batch failed; return the rows that were run."""
        start = self._clock()
        rows = sum(job.rows for job in batch)
        try:
            outcomes = split(run.outputs, batch, padded)
        except ServiceError as error:
            self._try_alone(batch, padded != rows, error)
            return rows
        arrived = 0.0
        for job, outcome in zip(batch, outcomes, strict=True):
            arrived += job.arrived
            finish(job, outcome)
        end = self._clock()
        self._costs.observe(elements, run.infer_seconds)
        self._row_seconds += _SMOOTHING * ((end - began) / rows - self._row_seconds)
        times = BatchTimes(run.input_seconds, run.infer_seconds, end - start)
        self.statistics.ran(len(batch), rows, len(batch) * began - arrived, times)
        self.statistics.success.add(len(batch) * end - arrived, len(batch))
        return rows

    def _try_alone(self, batch: list[Job], was_padded: bool, error: ServiceError) -> None:
        """Find out whose fault it was: one bad request must not cost its neighbours their answers."""
        if self._closed or (len(batch) == 1 and not was_padded):
            for job in batch:
                self._endings.fail(job, error)
            return
        _logger.warning("a batch failed, its requests run alone", extra={"fields": {"error": str(error)}})
        for job in batch:
            job.key = None
        self._scheduler.put_back(batch)

    def _make_room(self, now: float) -> None:
        """Throw out the jobs that nobody waits for, if the queue is full.

        Raises:
            Overloaded: they all have their callers.
        """
        # A free worker takes what waits in a moment: a whole batch may come even where nothing may wait for long.
        limit = max(self.limits.queue_limit, self.limits.max_rows if self._free else 0)
        if len(self._scheduler) < limit:
            return
        self._endings.give_up(self._scheduler.sweep(now))
        if len(self._scheduler) >= limit:
            self.statistics.rejected += 1
            self.statistics.fail.add(0.0)
            seconds = self._scheduler.rows * self._row_seconds / self._instances
            raise Overloaded(
                f"{len(self._scheduler)} requests wait already; try again later",
                retry_after_seconds=max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(seconds))),
            )

    def _settle_idle(self) -> None:
        if not self._scheduler and len(self._free) == self._instances:
            self._idle.set()


def _settle(future: asyncio.Future[dict[str, NDArray[Any]]], outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, ServiceError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _unloaded() -> ModelNotReady:
    return ModelNotReady("the model has been unloaded; try again", reason="unloading")
