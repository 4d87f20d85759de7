"""How traces are run: in threads of their own, behind a queue of their own, never for longer than their time."""

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from starlette.requests import Request

from service.api.body import parse_base64
from service.api.state import State, gone, state_of
from service.bundle import LanguageModelling
from service.errors import Busy, DeadlinePassed, Overloaded
from service.gates.inputs import Bounds
from service.gates.subject import Subject
from service.repository import Loaded
from service.settings import Settings
from service.text import TextTokenizer

T = TypeVar("T")


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
