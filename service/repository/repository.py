"""The model repository: NAME/VERSION/ in a folder or a remote store, followed while the service runs."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from service.errors import (
    ConfigInvalid,
    ControlRefused,
    InvalidFields,
    RepositoryEmpty,
    ServiceError,
    StoreFailed,
)
from service.metrics import Metrics
from service.repository.aliases import parse_aliases
from service.repository.directory import Directory
from service.repository.loader import Loader
from service.repository.model import Model
from service.repository.options import Options
from service.repository.report import Report
from service.repository.stores.choose import open_store
from service.repository.stores.store import Found

_logger = logging.getLogger(__name__)


class Repository(Directory):
    """The models of one store. Everything belongs to the event loop; blocking work is done in threads."""

    def __init__(self, root: Path | str, options: Options | None = None, metrics: Metrics | None = None) -> None:
        """Look at the store's names; nothing is opened before `start`.

        Raises:
            RepositoryEmpty: the store cannot be read, or has no NAME/VERSION in it although nothing can come later.
        """
        super().__init__()
        self._options = options or Options()
        try:
            self._store = open_store(root, self._options.cache)
            found = self._store.scan()
        except ServiceError as error:
            raise RepositoryEmpty(str(error)) from error
        if not found.models and self._options.control == "none":
            raise RepositoryEmpty(f"{self._store.place} has no bundle: folders NAME/VERSION with a manifest.json")
        self._report = Report(metrics)
        self._loader = Loader(self._store, self._options)
        self._first = frozenset(found.models)
        self._aliases_problem = ""
        self._failure = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._found = found
        self._take_note(found)
        for name, model in self._models.items():
            startup = self._options.startup_models
            model.is_wanted = self._options.control != "explicit" or "*" in startup or name in startup
            model.take_note(found.models[name])

    async def start(self) -> None:
        """Load what the policy asks for; then, under `poll` control, look for changes until `stop`."""
        await self._follow(self._found)
        if self._options.control == "poll":
            self._spawn(self._poll())

    async def stop(self) -> None:
        """Look for no more changes, answer what was asked, close every model."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(model.unload() for model in self._models.values()))
        self._loader.shut_down()

    async def refresh(self) -> None:
        """Look at the store once and follow its changes; what is served goes on if it cannot be read."""
        try:
            found = await asyncio.to_thread(self._store.scan)
            if not found.models and any(model.answering for model in self._models.values()):
                raise StoreFailed(f"{self._store.place} is empty all of a sudden: is it mounted?")
        except ServiceError as error:
            self._report.unreachable(self._store.place, str(error), is_news=str(error) != self._failure)
            self._failure = str(error)
            return
        self._failure = ""
        await self._follow(found)

    async def load(self, name: str, *, config: Mapping[str, Any] | None = None) -> None:
        """Load a model, or load it again if its folder has changed; return when it answers.

        Args:
            name: the model; not an alias.
            config: what stands in the place of its `config.toml` until it is loaded again.

        Raises:
            ControlRefused: `control` is not `explicit`.
            UnknownModel: the store has no such folder.
            InvalidFields: `config` does not fit.
            LoadFailed: a version that the policy asks for was refused; what answered before still does.
            StoreFailed: the store cannot be read.
        """
        self._check_control()
        await asyncio.shield(self._spawn(self._load(name, config)))

    async def unload(self, name: str) -> None:
        """Take a model out of traffic; return when it has answered what was asked before.

        Raises:
            ControlRefused: `control` is not `explicit`.
            UnknownModel: the store has no such folder.
        """
        self._check_control()
        if name not in self._models:
            raise self._unknown(name)
        await asyncio.shield(self._spawn(self._models[name].unload()))

    async def _load(self, name: str, config: Mapping[str, Any] | None) -> None:
        found = await asyncio.to_thread(self._store.scan)
        if name not in found.models:
            raise self._unknown(name)
        self._take_note(found)
        try:
            await self._models[name].load(found.models[name], config)
        except ConfigInvalid as error:
            raise InvalidFields(str(error)) from error

    async def _follow(self, found: Found) -> None:
        self._take_note(found)
        await asyncio.gather(*(model.follow(found.models.get(name)) for name, model in list(self._models.items())))
        versions = [version for model in found.models.values() for version in model.versions.values()]
        await asyncio.to_thread(self._store.prune, versions)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                await self.refresh()
            except Exception:
                _logger.exception("looking at the repository failed")

    def _take_note(self, found: Found) -> None:
        """Make room for new models, and read the aliases; wrong ones leave those that were there."""
        for name in found.models:
            if name not in self._models:
                model = Model(name, self._loader, self._report, self._options.defaults, self._rebuild)
                model.is_wanted = self._options.control != "explicit"
                self._models[name] = model
        try:
            self._aliases = parse_aliases(found.aliases, found.models.keys())
        except ConfigInvalid as error:
            if str(error) != self._aliases_problem:
                _logger.error("aliases refused", extra={"fields": {"reason": error}})
            self._aliases_problem = str(error)
        else:
            self._aliases_problem = ""
        self._rebuild()

    def _check_control(self) -> None:
        control = self._options.control
        if control != "explicit":
            raise ControlRefused(f"models are loaded on demand with control=explicit alone, it is {control}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let work go on to its end, also if its caller goes."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
