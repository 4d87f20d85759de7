"""What every endpoint can reach: settings, models, workers, metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar, cast

from starlette.requests import Request

from service.engine.runner import Runner
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings

T = TypeVar("T")


@dataclass
class State:
    """The running service.

    `draining` is set when it was told to stop, `cut_off` counts the requests that it gave up then.
    """

    settings: Settings
    repository: Repository
    runner: Runner
    metrics: Metrics
    loaded: bool = False
    draining: bool = False
    cut_off: int = 0


class Timing:
    """Milliseconds of the steps of one request, in the order in which they ended."""

    def __init__(self) -> None:
        """Start the clock."""
        self.ms: dict[str, float] = {}
        self._last = perf_counter()

    def mark(self, step: str) -> None:
        """Book the time since the last mark on `step`."""
        now = perf_counter()
        self.ms[step] = round((now - self._last) * 1000, 3)
        self._last = now


def state_of(request: Request) -> State:
    """Return the service that this request came to."""
    return cast(State, request.app.state.service)


async def in_worker(request: Request, call: Callable[[], T]) -> T:
    """Run a blocking call in a worker thread; it is dropped if the client vanishes while it waits for its turn.

    The request's body must have been read.
    """
    return await state_of(request).runner.run(call, _gone(request))


def _gone(request: Request) -> Callable[[], Awaitable[None]]:
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return gone
