"""The loop on a thread of its own, and streams of events for callers on an event loop."""

import asyncio
import logging
import threading
from collections import deque
from types import TracebackType

from service.engine.generation.events import TokenEvent
from service.engine.generation.loop import GenerationLoop
from service.engine.generation.request import GenerateRequest
from service.engine.generation.sequence import Sequence
from service.errors import ModelFailed, ModelNotReady

_logger = logging.getLogger(__name__)


class Stream:
    """The events of one request, as they come: `async with stream: async for event in stream`.

    Leaving the block gives up what has not come yet. Events that nobody reads wait here, at most as many as the
    request has tokens; nobody else waits for them.
    """

    def __init__(self, engine: "GenerationEngine", choices: int) -> None:
        """Wait for the last event of so many choices."""
        self.sequences: list[Sequence] = []
        self._engine = engine
        self._events: deque[TokenEvent] = deque()
        self._left = choices
        self._news = asyncio.Event()

    def cancel(self) -> None:
        """Give up what has not come yet: the slots are free after the step that runs now."""
        if self._left:
            self._left = 0
            self._events.clear()
            for sequence in self.sequences:
                sequence.is_cancelled = True
            self._news.set()
            self._engine.wake()

    def put(self, event: TokenEvent) -> None:
        """Take an event; on the event loop."""
        if self._left:
            self._events.append(event)
            self._left -= event.is_last
            self._news.set()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> TokenEvent:
        while not self._events:
            if not self._left:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class GenerationEngine:
    """Generation for one model. All methods belong to the event loop on which it was made."""

    def __init__(self, loop: GenerationLoop) -> None:
        """Start the thread."""
        self.loop = loop
        self._home = asyncio.get_running_loop()
        self._outbox: list[tuple[Stream, TokenEvent]] = []
        self._work = threading.Event()
        self._submitted = 0
        self._is_draining = False
        self._is_closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest) -> Stream:
        """Let a request wait for its turn.

        Raises:
            InvalidFields: the request does not fit the model.
            Overloaded: too many wait already; `retry_after_seconds` is in its details.
            ModelNotReady: the engine takes no more requests.
        """
        if self._is_draining:
            raise ModelNotReady("the model has been unloaded; try again", reason="unloading")
        stream = Stream(self, request.n)
        stream.sequences = self.loop.submit(request, lambda event: self._outbox.append((stream, event)))
        self._submitted += 1
        self._idle.clear()
        self.wake()
        return stream

    def wake(self) -> None:
        """Let the thread look at what there is to do."""
        self._work.set()

    async def drain(self) -> None:
        """Take no more requests, and wait until all have their answers."""
        self._is_draining = True
        await self._idle.wait()

    async def close(self) -> None:
        """Take no more requests; those that have no answer yet fail. The thread has ended afterwards."""
        self._is_draining = self._is_closed = True
        self.wake()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._is_closed:
            self._work.wait()
            self._work.clear()
            is_busy = True
            while is_busy and not self._is_closed:
                seen = self._submitted
                is_busy = self._turn()
                self._deliver(seen, is_busy)
        seen = self._submitted
        self.loop.fail_all(ModelNotReady("the model has been unloaded; try again", reason="unloading"))
        self._deliver(seen, is_busy=False)

    def _turn(self) -> bool:
        try:
            return self.loop.turn()
        except Exception as error:
            _logger.exception("generation failed, all answers are given up")
            self.loop.fail_all(ModelFailed(f"generation failed: {type(error).__name__}"))
            return False

    def _deliver(self, seen: int, is_busy: bool) -> None:
        events, self._outbox = self._outbox, []
        try:
            # One call for all events of a step: each wakes the event loop up.
            self._home.call_soon_threadsafe(self._hand_out, events, seen, is_busy)
        except RuntimeError:  # the event loop is closed: nobody is left to hear it
            self._is_closed = True

    def _hand_out(self, events: list[tuple[Stream, TokenEvent]], seen: int, is_busy: bool) -> None:
        for stream, event in events:
            stream.put(event)
        # A request that came during the turn is not part of what the turn says.
        if not is_busy and seen == self._submitted:
            self._idle.set()
