"""Open versions in threads of their own and close them again; keep the budget of memory."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from service.bundle import Bundle, LanguageModelling
from service.engine.batcher import Batcher
from service.engine.generation.language import Language
from service.errors import BundleCorrupt, ServiceError
from service.gates.live.budget import Budget
from service.gates.live.live import LiveGates
from service.gates.reference import Reference, read_reference
from service.protocol.view import model_view
from service.repository.config import Serving
from service.repository.loaded import Loaded
from service.repository.memory import MemoryBudget, estimate_bytes
from service.repository.opening import Opened, open_bundle, verify
from service.repository.options import Options
from service.repository.stores.store import FoundVersion, Store

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Loader:
    """Opens and closes versions; its methods belong to the event loop, the work is done in threads."""

    def __init__(self, store: Store, options: Options) -> None:
        """Start no thread yet."""
        self.store = store
        self.budget = MemoryBudget(options.memory_limit_bytes)
        self._options = options
        self._live_budget = Budget(options.gates_live_share)
        self._pool = ThreadPoolExecutor(options.load_threads, thread_name_prefix="load")

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking call beside the requests' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def open(self, found: FoundVersion, serving: Serving) -> Loaded:
        """Open a version and let it prove itself.

        Raises:
            BundleError: the bundle cannot be served.
            StoreFailed: it cannot be fetched.
            MemoryLimit: there is no room for it.
            ModelFailed: it cannot be run, or not in time.
            ProviderUnavailable: the device cannot be used.
        """
        options = self._options
        start = perf_counter()
        bundle = await self.in_thread(lambda: self._fetch(found))
        digest = await self.in_thread(lambda: self.store.digest(found))
        size = await self.in_thread(lambda: estimate_bytes(bundle, serving))
        self.budget.reserve(size)
        try:
            with _without(bundle.folder):
                reference = await self.in_thread(lambda: read_reference(bundle.folder, bundle.manifest))
                opened = await self.in_thread(
                    lambda: open_bundle(bundle, options.device, serving, options.load_seconds)
                )
            loaded = Loaded(
                found.name,
                str(found.number),
                bundle,
                digest,
                serving,
                opened.sessions[0],
                opened.sessions,
                Batcher(opened.sessions, bundle.manifest.graph, serving.limits),
                model_view(found.name, str(found.number), bundle.manifest),
                perf_counter() - start,
                opened.golden_difference,
                size,
                self._language(bundle, opened, serving),
                reference=reference,
            )
            loaded.live = loaded.batcher.probe = live = self._live(bundle, reference)
            language = loaded.language_or_none
            if live is not None and language is not None and language.engine_or_none is not None:
                language.engine_or_none.loop.show_gates(live)
            return loaded
        except BaseException:
            self.budget.release(size)
            raise

    @staticmethod
    def _language(bundle: Bundle, opened: Opened, serving: Serving) -> Language | None:
        """Let a language model's engine begin; it belongs to this event loop."""
        task = bundle.manifest.task
        if not isinstance(task, LanguageModelling):
            return None
        limits = serving.generation.limits(task, serving.limits.priorities)
        return Language(task, opened.sessions[0], opened.step, opened.tokenizer, limits, template=opened.template)

    def _live(self, bundle: Bundle, reference: Reference | None) -> LiveGates | None:
        """Return who looks at the gates of ordinary traffic, if there are any and it is wanted."""
        gates = bundle.manifest.gates
        if gates is None or "beta" not in gates.outputs or not self._live_budget.share:
            return None
        return LiveGates(gates, reference, self._live_budget)

    async def close(self, loaded: Loaded) -> None:
        """Close a version that gets no more requests, after it has answered those it got."""
        seconds = self._options.unload_seconds
        fields = {"model": loaded.name, "version": loaded.version}
        try:
            if not await loaded.retire(seconds):
                _logger.warning("a version did not drain in time", extra={"fields": {**fields, "seconds": seconds}})
        finally:
            self.budget.release(loaded.memory_bytes)

    async def collect(self) -> None:
        """Free the memory of closed sessions now: they stand in circles that Python may not look at for hours."""
        await self.in_thread(gc.collect)

    def shut_down(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, found: FoundVersion) -> Bundle:
        trusted = self._options.trusted
        folder = self.store.fetch(found)
        with _without(folder):
            try:
                return verify(folder, found, trusted)
            except BundleCorrupt:
                if not self.store.discard(folder):
                    raise
            # What was kept on this machine is damaged; the store's own files may not be.
            return verify(self.store.fetch(found), found, trusted)


@contextmanager
def _without(folder: Path) -> Iterator[None]:
    """Leave the folder out of what errors say: callers read it, and it is not theirs to know."""
    try:
        yield
    except ServiceError as error:
        raise type(error)(str(error).replace(f"{folder}/", ""), **error.details) from error
