"""How traces are run: in threads of their own, behind a queue of their own, never for longer than their time."""

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from functools import wraps
from time import monotonic
from typing import Concatenate, ParamSpec, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from service.api.body import parse_base64
from service.api.problems import KINDS
from service.api.state import State, gone, state_of
from service.bundle import LanguageModelling
from service.errors import Busy, DeadlinePassed, Overloaded, ServiceError
from service.gates.inputs import Bounds
from service.gates.subject import Subject
from service.repository import Loaded
from service.settings import Settings
from service.text import TextTokenizer

T = TypeVar("T")
P = ParamSpec("P")
Handler = Callable[Concatenate[Request, P], Awaitable[Response]]
_BY_STATUS = {429: "busy", 499: "gone", 501: "refused", 504: "late"}


def counted(handler: Handler[P]) -> Handler[P]:
    """Count the requests of a handler by the form that they ask for, once it is known, and by what becomes of them."""

    @wraps(handler)
    async def counting(request: Request, *args: P.args, **kwargs: P.kwargs) -> Response:
        outcome = "ok"
        try:
            return await handler(request, *args, **kwargs)
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            form = "safetensors" if getattr(request.state, "binary", False) else "json"
            state_of(request).metrics.gates.requests.labels(form, outcome).inc()

    return cast(Handler[P], counting)


def _outcome(error: BaseException) -> str:
    if isinstance(error, CancelledError):
        return "gone"
    status = KINDS[type(error)].status if isinstance(error, ServiceError) else 500
    return _BY_STATUS.get(status, "refused" if status < 500 else "failed")


def bounds_of(settings: Settings) -> Bounds:
    """Return what requests may take."""
    return Bounds(
        settings.json_cells,
        settings.binary_cells,
        settings.gates_positions,
        settings.max_image_pixels,
        parse_base64,
    )


def subject_of(state: State, model: Loaded) -> Subject:
    """Return a model as the gates API sees it; the head that was read once is kept while the model is open."""
    subject = state.subjects.get(model)
    if subject is None:
        subject = Subject(model.bundle, model.session, _tokenizer(model))
        state.subjects[model] = subject
    subject.session = model.session
    return subject


def _tokenizer(model: Loaded) -> TextTokenizer | None:
    task = model.manifest.task
    has_one = isinstance(task, LanguageModelling) and task.tokenizer is not None
    return model.language.tokenizer if has_one else None


class Deadline:
    """The time of one trace: what the caller gives, at most what the service does."""

    def __init__(self, settings: Settings) -> None:
        """Start the clock."""
        self._started = monotonic()
        self._seconds = settings.gates_seconds

    def shorten(self, deadline_ms: int | None) -> None:
        """Take the caller's time into account."""
        if deadline_ms is not None:
            self._seconds = min(self._seconds, deadline_ms / 1000)

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            DeadlinePassed: there are none.
        """
        seconds = self._started + self._seconds - monotonic()
        if seconds <= 0:
            raise DeadlinePassed(f"the trace was given up: its {self._seconds:g} s were over")
        return seconds


async def in_trace(request: Request, call: Callable[[], T], *, fail_if_busy: bool) -> T:
    """Run a blocking call in a worker for traces; it is dropped if the client vanishes while it waits.

    Raises:
        Busy: no worker is free and the caller does not wait, or too many wait already.
        CallerGone: the client hung up while the call was waiting.
    """
    traces = state_of(request).traces
    if fail_if_busy and traces.running >= traces.workers:
        raise Busy("every worker for traces is busy", retry_after_seconds=1)
    try:
        return await traces.run(call, gone(request))
    except Overloaded as error:
        raise Busy(str(error), **error.details) from error
