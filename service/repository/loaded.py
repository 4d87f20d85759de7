"""A model that answers, and what is known of those that do not."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from service.bundle import Bundle, Manifest
from service.engine.batcher import Batcher
from service.engine.generation.language import Language
from service.errors import TaskMismatch
from service.gates.live.live import LiveGates
from service.gates.reference import Reference
from service.protocol.view import ModelView
from service.repository.config import Serving
from service.runtime.session import Session

State = Literal["loading", "ready", "refused", "unloading", "unloaded"]

_PROTOCOL_STATES = {"loading": "LOADING", "ready": "READY", "unloading": "UNLOADING"}


@dataclass(eq=False)
class Loaded:
    """A model version that answers: its bundle, its sessions, its queue, and what opening it took and showed.

    `session` is the first of `sessions`; `digest` is the SHA-256 of the bundle's list of files, `memory_bytes` an
    estimate. `language_or_none` is there for language models, `live` for models whose gates are looked at, `reference`
    where the bundle carries one.
    """

    name: str
    version: str
    bundle: Bundle
    digest: str
    serving: Serving
    session: Session
    sessions: tuple[Session, ...]
    batcher: Batcher
    view: ModelView
    load_seconds: float
    golden_difference: float
    memory_bytes: int
    language_or_none: Language | None = None
    live: LiveGates | None = None
    reference: Reference | None = None
    _uses: int = field(default=0, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def manifest(self) -> Manifest:
        """The bundle's description."""
        return self.bundle.manifest

    @property
    def language(self) -> Language:
        """The way to text of a language model.

        Raises:
            TaskMismatch: the model does something else.
        """
        if self.language_or_none is None:
            task = self.manifest.task.kind
            raise TaskMismatch(f"{self.name!r} is no language model: its task is {task}", task=task)
        return self.language_or_none

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the version open over several turns of the event loop, also if another takes its place meanwhile.

        Not needed by who gets the model and submits to its batcher in the same turn.
        """
        self._uses += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._uses -= 1
            if not self._uses:
                self._idle.set()

    async def retire(self, seconds: float) -> bool:
        """Answer everything that came before, then close; False if that took longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                if self._uses:
                    await self._idle.wait()
                await self.batcher.drain()
                if self.language_or_none is not None:
                    await self.language_or_none.drain()
        except TimeoutError:
            return False
        finally:
            self.batcher.close()
            if self.language_or_none is not None:
                await self.language_or_none.close()
        return True


@dataclass
class Entry:
    """A version in the repository; `reason` says why it does not answer, or not with what its folder holds now."""

    name: str
    version: str
    state: State = "unloaded"
    reason: str = ""
    loaded: Loaded | None = None

    @property
    def protocol_state(self) -> str:
        """The state in the words of the model repository extension."""
        return _PROTOCOL_STATES.get(self.state, "UNAVAILABLE")


class IndexEntry(NamedTuple):
    """A line of the repository's index, as the model repository extension has it."""

    name: str
    version: str
    state: str
    reason: str
