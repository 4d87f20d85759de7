"""All versions of one model: what should answer, what does, and the way from one to the other."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from service.errors import BundleError, ConfigInvalid, LoadFailed, ServiceError
from service.repository.config import Serving, parse_config, read_config
from service.repository.loaded import Entry, Loaded
from service.repository.loader import Loader
from service.repository.report import Report
from service.repository.stores.store import FoundModel, FoundVersion

_logger = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 300.0


@dataclass
class _Version(Entry):
    """A version with what it was opened from, and when it may be tried again if it was refused.

    `opened` and `refused` are the fingerprint of its files and the way of serving it.
    """

    opened: tuple[str, Serving] | None = None
    refused: tuple[str, Serving] | None = None
    tries: int = 0
    retry_at: float = 0.0
    closing: int = 0

    def is_due(self, wanted: tuple[str, Serving]) -> bool:
        """Tell whether an attempt makes sense: what was refused has changed, or may succeed now."""
        return self.refused != wanted or monotonic() >= self.retry_at


class Model:
    """The versions of one model. Changes are made one after the other, on the event loop."""

    def __init__(
        self, name: str, loader: Loader, report: Report, defaults: Serving, changed: Callable[[], None]
    ) -> None:
        """Know no version yet; `changed` is called whenever another set of versions answers."""
        self.name = name
        self.is_wanted = True
        self.versions: dict[int, _Version] = {}
        self._loader = loader
        self._report = report
        self._defaults = defaults
        self._changed = changed
        self._override: Mapping[str, Any] | None = None
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def answering(self) -> dict[int, Loaded]:
        """The versions that answer, oldest first."""
        return {number: v.loaded for number, v in sorted(self.versions.items()) if v.loaded is not None}

    def take_note(self, found: FoundModel | None) -> None:
        """Note which versions the folder has; forget those that are gone and do not answer."""
        present = found.versions if found is not None else {}
        for number in present:
            self.versions.setdefault(number, _Version(self.name, str(number)))
        for number in [n for n, v in self.versions.items() if n not in present and v.loaded is None and not v.closing]:
            self._report.forgotten(self.name, str(number))
            del self.versions[number]

    async def follow(self, found: FoundModel | None) -> None:
        """Bring what answers in line with the folder; None says that it is gone.

        The new is opened and proves itself before the old gets no more requests. What cannot be opened is refused with
        its reason, and what was answering goes on.
        """
        async with self._lock:
            await self._follow(found, insist=False)

    async def load(self, found: FoundModel, config: Mapping[str, Any] | None) -> None:
        """Load on demand, also what was refused before; with `config` in the place of `config.toml` if it is given.

        Raises:
            ConfigInvalid: `config` does not follow the format.
            LoadFailed: a version that the policy asks for was refused, or there is none; what answered still does.
        """
        async with self._lock:
            if config is not None:
                read_config(config).over(self._defaults)
            self._override = config
            self.is_wanted = True
            tried = await self._follow(found, insist=True)
            refused = {str(number): self.versions[number].reason for number in tried if self.versions[number].reason}
            answering = [str(number) for number in self.answering]
        if refused or not tried:
            reasons = [f"version {version}: {reason}" for version, reason in refused.items()]
            said = "; ".join(reasons) or "there is no version that its policy asks for"
            goes_on = f"; version {', '.join(answering)} answers" if answering else ""
            raise LoadFailed(f"{self.name!r} could not be loaded: {said}{goes_on}", refused=refused, serving=answering)

    async def unload(self) -> None:
        """Let no version answer; return when all requests that came before are answered."""
        async with self._lock:
            self.is_wanted = False
            for version in self.versions.values():
                self._retire(version, "it was unloaded")
        await self.closed()

    async def closed(self) -> None:
        """Wait for the versions that are being closed."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def _follow(self, found: FoundModel | None, *, insist: bool) -> list[int]:
        """Do what `follow` says and return the versions that were tried, or answer already."""
        self.take_note(found)
        chosen: set[int] = set()
        tried: list[int] = []
        if found is not None and self.is_wanted:
            chosen, tried = await self._open_chosen(found, insist)
        self._retire_others(found, chosen)
        return tried

    async def _open_chosen(self, found: FoundModel, insist: bool) -> tuple[set[int], list[int]]:
        """Open what the policy asks for; return the versions that shall answer, and those that were tried."""
        try:
            config = parse_config(found.config) if self._override is None else read_config(self._override)
            serving = config.over(self._defaults)
        except ConfigInvalid as error:
            self._refuse_all(found, str(error))
            return set(self.answering), sorted(found.versions)
        chosen: set[int] = set()
        tried: list[int] = []
        for number in serving.policy.candidates(found.versions):
            if serving.policy.is_enough(len(chosen)):
                break
            tried.append(number)
            if await self._ensure(self.versions[number], found.versions[number], serving, insist):
                chosen.add(number)
        return chosen or set(self.answering), tried

    async def _ensure(self, version: _Version, found: FoundVersion, serving: Serving, insist: bool) -> bool:
        """Let a version answer with what its folder holds; True if it does answer, be it with what it held before."""
        wanted = (found.fingerprint, serving)
        if version.loaded is not None and (version.opened == wanted or await self._is_same(version, found, serving)):
            version.opened, version.refused, version.reason = wanted, None, ""
            return True
        if not insist and not version.is_due(wanted):
            return version.loaded is not None
        if version.loaded is None:
            version.state, version.reason = "loading", ""
        try:
            loaded = await self._loader.open(found, serving)
        except ServiceError as error:
            self._refuse(version, wanted, str(error), is_final=isinstance(error, BundleError))
        except Exception as error:
            _logger.exception("loading failed", extra={"fields": {"model": self.name, "version": version.version}})
            self._refuse(version, wanted, f"loading failed: {type(error).__name__}: {error}", is_final=False)
        else:
            self._swap(version, loaded, wanted)
        return version.loaded is not None

    async def _is_same(self, version: _Version, found: FoundVersion, serving: Serving) -> bool:
        """Tell whether a folder that was touched still claims the content that answers."""
        if version.loaded is None or version.loaded.serving != serving:
            return False
        try:
            return await self._loader.in_thread(lambda: self._loader.store.digest(found)) == version.loaded.digest
        except ServiceError:
            return False

    def _swap(self, version: _Version, loaded: Loaded, opened: tuple[str, Serving]) -> None:
        old, version.loaded = version.loaded, loaded
        version.state, version.reason = "ready", ""
        version.opened, version.refused, version.tries = opened, None, 0
        self._changed()
        self._report.ready(loaded)
        if old is not None:
            self._close(version, old)

    def _refuse(self, version: _Version, wanted: tuple[str, Serving], reason: str, *, is_final: bool) -> None:
        """Note why a version is not opened; what is wrong with its files is final until they change."""
        version.tries = version.tries + 1 if version.refused == wanted else 1
        wait = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** (version.tries - 1))
        version.refused = wanted
        version.retry_at = float("inf") if is_final else monotonic() + wait
        version.reason = reason
        if version.loaded is None:
            version.state = "refused"
        self._report.refused(self.name, version.version, version.reason, [str(n) for n in self.answering])

    def _refuse_all(self, found: FoundModel, reason: str) -> None:
        for number in found.versions:
            version = self.versions[number]
            if version.reason != reason:
                version.reason = reason
                if version.loaded is None:
                    version.state = "refused"
                self._report.refused(self.name, version.version, reason, [str(n) for n in self.answering])

    def _retire_others(self, found: FoundModel | None, chosen: set[int]) -> None:
        present = found.versions if found is not None else {}
        for number, version in list(self.versions.items()):
            if number not in present:
                self._retire(version, "it was removed from the repository")
            elif number not in chosen:
                self._retire(version, "the version policy chooses others")

    def _retire(self, version: _Version, reason: str) -> None:
        """Take a version out of traffic; what it was given before is answered in the background."""
        loaded, version.loaded = version.loaded, None
        if loaded is not None:
            version.state, version.reason, version.opened = "unloading", reason, None
            self._changed()
            self._report.closed(self.name, version.version, reason)
            self._close(version, loaded)
        elif not self.is_wanted and version.state == "refused":
            version.state, version.refused = "unloaded", None
            self._report.forgotten(self.name, version.version)

    def _close(self, version: _Version, loaded: Loaded) -> None:
        version.closing += 1
        task = asyncio.get_running_loop().create_task(self._closed_by(version, loaded))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _closed_by(self, version: _Version, loaded: Loaded) -> None:
        try:
            await self._loader.close(loaded)
        finally:
            del loaded
            version.closing -= 1
            if version.state == "unloading" and not version.closing:
                version.state = "unloaded"
        await self._loader.collect()
