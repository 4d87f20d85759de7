"""Dynamic batching: requests that arrive together run together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from service.engine.admission import Admission
from service.engine.alarm import Alarm
from service.engine.answering import Answering, Batch
from service.engine.costs import Costs
from service.engine.endings import Endings
from service.engine.execution import Run, execute
from service.engine.job import BatchLimits, Job, Outcome
from service.engine.mixing import Mixing
from service.engine.scheduler import Scheduler
from service.engine.statistics import Statistics
from service.errors import ModelNotReady, ServiceError
from service.gates.live.probe import Probe
from service.manifest.tensors import Graph
from service.runtime.session import Session

_INLINE_SECONDS = 0.002
"""A run that takes less is not worth a change of threads; the event loop can do without that time."""


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
        self._admission = Admission(self._scheduler, self._endings, self.statistics, limits, len(sessions))
        self._answering = Answering(
            self._scheduler, self._endings, self._costs, self._admission, self.statistics, clock
        )
        self._pool = ThreadPoolExecutor(len(sessions), thread_name_prefix="batch")
        self._mixing = Mixing(graph)
        self._alarm = Alarm(self._turn, clock)
        self._is_cheap = False
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
        if self._answering.closed:
            raise _unloaded()
        self._admission.check(now, worker_is_free=bool(self._free))
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
        self._answering.closed = True
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

    def _start(self, jobs: list[Job], now: float) -> bool:
        """Run a batch here if it is cheap, and say so; else hand it to a thread."""
        first = jobs[0]
        rows = sum([job.rows for job in jobs])
        padded = rows if first.key is None else self.limits.padded(rows)
        elements = padded * sum([array.size for array in first.feeds.values()]) // max(1, first.rows)
        batch = Batch(jobs, rows, padded, elements, now)
        expected = self._costs.predict(elements)
        self._is_cheap = expected is not None and expected < _INLINE_SECONDS
        if self._is_cheap:
            self._answering.answer(batch, execute(self._free[-1], jobs, padded, self.probe))
            return True
        session = self._free.pop()
        future = asyncio.get_running_loop().run_in_executor(self._pool, execute, session, jobs, padded, self.probe)
        future.add_done_callback(partial(self._ended, session, batch))
        return False

    def _ended(self, session: Session, batch: Batch, future: asyncio.Future[Run]) -> None:
        self._free.append(session)
        self._answering.answer(batch, future.result())
        now = self._clock()
        self._scheduler.answered(now, now - batch.began, batch.rows)
        self._alarm.soon()

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
