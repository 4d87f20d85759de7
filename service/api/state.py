"""What every endpoint can reach: settings, models, workers, metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from starlette.requests import Request

from service.engine.runner import Runner
from service.gates.live.figures import gate_figures
from service.gates.subject import Subject
from service.metrics import Metrics, ModelFigures
from service.metrics.gates import GateFigures
from service.metrics.generation import GenerationFigures
from service.repository import Loaded, Repository
from service.security.guard import Guard
from service.settings import Settings
from service.telemetry.access import Access

T = TypeVar("T")


@dataclass
class State:
    """The running service.

    `traces` runs what tells of gates; `subjects` keeps what that has read of each open model.
    `draining` is set when it was told to stop, `cut_off` counts the requests that it gave up then. `grpc_port` is the
    port of gRPC once it is served.
    """

    settings: Settings
    repository: Repository
    runner: Runner
    metrics: Metrics
    guard: Guard
    access: Access
    loaded: bool = False
    draining: bool = False
    cut_off: int = 0
    grpc_port: int | None = None
    traces: Runner = field(init=False)
    subjects: WeakKeyDictionary[Loaded, Subject] = field(default_factory=WeakKeyDictionary, init=False)

    def __post_init__(self) -> None:
        """Give traces workers of their own: they are long, and predictions do not wait for them."""
        self.traces = Runner(self.settings.gates_workers, self.settings.gates_queue_limit)

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker or a batch."""
        return self.runner.waiting + sum(model.batcher.waiting for model in self.models())

    @property
    def running(self) -> int:
        """Workers and batches that are busy."""
        return self.runner.running + sum(model.batcher.running for model in self.models())

    def models(self) -> list[Loaded]:
        """Return every version that is open."""
        return [entry.loaded for entry in self.repository.entries() if entry.loaded is not None]

    def model_figures(self) -> list[ModelFigures]:
        """Return what the batches of every model have come to."""
        return [
            model.batcher.statistics.figures(model.name, model.version, model.batcher.waiting, model.batcher.running)
            for model in self.models()
        ]

    def generation_figures(self) -> list[GenerationFigures]:
        """Return what the engines of the language models have come to."""
        languages = [(model, model.language_or_none) for model in self.models()]
        engines = [(model, language.engine_or_none) for model, language in languages if language is not None]
        return [engine.loop.figures(model.name, model.version) for model, engine in engines if engine is not None]

    def gate_figures(self) -> list[GateFigures]:
        """Return the live statistics of every model that has them."""
        return [gate_figures(model.name, model.version, model.live) for model in self.models() if model.live]

    @property
    def is_ready(self) -> bool:
        """Say whether every model that should answer does, and the service was not told to stop."""
        return self.loaded and not self.draining and not self.repository.unready()


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
    return await state_of(request).runner.run(call, gone(request))


def gone(request: Request) -> Callable[[], Awaitable[None]]:
    """Return what ends when the client has hung up. The request's body must have been read."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait
