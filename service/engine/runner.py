"""Run blocking model calls in worker threads, with a bounded queue in front of them."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from service.errors import CallerGone, Overloaded

T = TypeVar("T")

_SMOOTHING = 0.1
_LONGEST_RETRY_SECONDS = 60


class Runner:
    """At most `workers` calls run, at most `queue_limit` wait, first come first served.

    All methods belong to the event loop; only the calls themselves run in threads.
    """

    def __init__(self, workers: int, queue_limit: int) -> None:
        """Start no thread yet; they come with the first calls."""
        self.workers = workers
        self.queue_limit = queue_limit
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._run_seconds = 0.0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="model")

    @property
    def running(self) -> int:
        """Calls that occupy a worker."""
        return self._running

    @property
    def waiting(self) -> int:
        """Calls that wait for a worker."""
        return len(self._waiting)

    async def run(self, call: Callable[[], T], gone: Callable[[], Awaitable[None]] | None = None) -> T:
        """Run `call` in a worker thread and return its value; its exception is raised here.

        Args:
            call: the work; it must not touch the event loop.
            gone: ends when nobody waits for the value any more; a call that still waits is dropped then.

        Raises:
            Overloaded: every worker is busy and the queue is full.
            CallerGone: `gone` ended while the call was waiting.
        """
        if self._running < self.workers:
            self._running += 1
        else:
            await self._wait_for_turn(gone)
        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        # A worker is free again when its call has ended, also if the caller was cancelled before.
        started = perf_counter()
        future.add_done_callback(lambda _: self._release(perf_counter() - started))
        return await asyncio.shield(future)

    def close(self) -> None:
        """Take no more calls; those that run go on to their end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _wait_for_turn(self, gone: Callable[[], Awaitable[None]] | None) -> None:
        if len(self._waiting) >= self.queue_limit:
            raise Overloaded(
                f"{self._running} requests are running and {len(self._waiting)} wait; try again later",
                retry_after_seconds=self._retry_after(),
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        watcher: asyncio.Future[None] | None = None if gone is None else asyncio.ensure_future(gone())
        try:
            await asyncio.wait([turn] if watcher is None else [turn, watcher], return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                raise CallerGone("the caller hung up while its request was waiting")
        except BaseException:
            self._forget(turn)
            raise
        finally:
            if watcher is not None:
                watcher.cancel()

    def _forget(self, turn: asyncio.Future[None]) -> None:
        """Give up a place in the queue; a turn that has come already goes to the next."""
        if turn.done():
            self._hand_on()
        else:
            self._waiting.remove(turn)

    def _release(self, run_seconds: float) -> None:
        self._run_seconds += _SMOOTHING * (run_seconds - self._run_seconds) if self._run_seconds else run_seconds
        self._hand_on()

    def _hand_on(self) -> None:
        """Give a worker that became free to the first in the queue."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._running -= 1

    def _retry_after(self) -> int:
        """Estimate, in whole seconds, when the queue will have been worked off."""
        seconds = (len(self._waiting) + self._running) * self._run_seconds / self.workers
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(seconds)))
