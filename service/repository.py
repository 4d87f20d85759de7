"""The model repository: `REPOSITORY/NAME/VERSION/`, of each name the newest version is served."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from service.bundle import NAME_PATTERN, Bundle, Classification, Manifest, read_bundle
from service.errors import (
    BundleDisagrees,
    BundleError,
    BundleInvalid,
    ModelNotReady,
    RepositoryEmpty,
    ServiceError,
    UnknownModel,
    UnknownVersion,
)
from service.runtime.golden import replay
from service.runtime.kernel_library import KernelChoice, choose_kernel, plain
from service.runtime.session import CPU, OrtSession, Session, check_graph

_logger = logging.getLogger(__name__)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")

State = Literal["loading", "ready", "refused"]


@dataclass(frozen=True)
class Loaded:
    """A model that answers: its bundle, its session, and what opening it took and showed."""

    name: str
    version: str
    bundle: Bundle
    session: Session
    load_seconds: float
    golden_difference: float

    @property
    def manifest(self) -> Manifest:
        """The bundle's description."""
        return self.bundle.manifest


@dataclass
class Entry:
    """A model of the repository, whether it answers or not; `reason` says why it does not."""

    name: str
    version: str
    folder: Path
    others: tuple[str, ...] = ()
    state: State = "loading"
    reason: str = ""
    loaded: Loaded | None = None


class Repository:
    """The models below one folder."""

    def __init__(self, root: Path, *, kernel_library: str = "auto", provider: str = CPU, threads: int = 1) -> None:
        """Look at the folder's names; nothing is opened before `load`.

        Raises:
            RepositoryEmpty: there is no such folder, or no NAME/VERSION in it.
        """
        self._kernel_library = kernel_library
        self._provider = provider
        self._threads = threads
        if not root.is_dir():
            raise RepositoryEmpty(f"there is no folder {root.absolute()}")
        self._entries = {entry.name: entry for entry in _scan(root)}
        if not self._entries:
            raise RepositoryEmpty(f"{root.absolute()} has no bundle: folders NAME/VERSION with a manifest.json")

    def entries(self) -> list[Entry]:
        """Return every model in the order of their names."""
        return [self._entries[name] for name in sorted(self._entries)]

    def get(self, name: str, version: str | None = None) -> Loaded:
        """Return the model that answers under this name.

        Raises:
            UnknownModel: the repository has no such name.
            UnknownVersion: another version is served.
            ModelNotReady: it is still being loaded, or its bundle was refused.
        """
        entry = self.entry(name, version)
        if entry.loaded is None:
            reason = entry.reason or "it is being loaded"
            raise ModelNotReady(f"model {name!r} version {entry.version} is not ready: {reason}", reason=reason)
        return entry.loaded

    def entry(self, name: str, version: str | None = None) -> Entry:
        """Return what is known of a model, ready or not.

        Raises:
            UnknownModel: the repository has no such name.
            UnknownVersion: another version is served.
        """
        entry = self._entries.get(name)
        if entry is None:
            known = sorted(self._entries)
            raise UnknownModel(f"no model {name[:64]!r}; known: {', '.join(known) or 'none'}", known=known)
        if version is not None and version != entry.version:
            place = "in the repository" if version in entry.others else "unknown"
            raise UnknownVersion(
                f"version {version[:16]!r} of {name!r} is {place}; version {entry.version} is served",
                known=[entry.version],
            )
        return entry

    def load(self) -> None:
        """Open every model; one that cannot be served is refused with its reason, the others go on."""
        for entry in self.entries():
            try:
                entry.loaded = self._open(entry)
            except ServiceError as error:
                self._refuse(entry, str(error))
            except Exception as error:
                _logger.exception("loading failed", extra={"fields": {"model": entry.name, "version": entry.version}})
                self._refuse(entry, f"loading failed: {type(error).__name__}: {error}")
            else:
                entry.state = "ready"
                self._announce(entry.loaded)

    def _open(self, entry: Entry) -> Loaded:
        start = perf_counter()
        bundle = read_bundle(entry.folder)
        manifest = bundle.manifest
        if manifest.name != entry.name:
            raise BundleInvalid(f"{entry.folder}: the manifest says {manifest.name!r}, the folder {entry.name!r}")
        if not isinstance(manifest.task, Classification):
            raise BundleError(f"its task is {manifest.task.kind}: this service answers for image classifiers alone")
        kernel = choose_kernel(self._kernel_library, manifest.graph.custom_ops, self._provider)
        session, difference = self._open_session(bundle, kernel)
        return Loaded(entry.name, entry.version, bundle, session, perf_counter() - start, difference)

    def _open_session(self, bundle: Bundle, kernel: KernelChoice) -> tuple[Session, float]:
        """Open and prove the graph; a kernel that gives other numbers than were recorded yields to the plain body."""
        session = OrtSession(bundle.graph_path, providers=self._providers(), threads=self._threads, kernel=kernel)
        check_graph(session, bundle.manifest.graph, bundle.graph_path)
        try:
            return session, replay(session, bundle.golden_path, bundle.manifest.golden)
        except BundleDisagrees as error:
            if session.kernel.path == "plain":
                raise
            reason = f"{session.kernel.library} is not used: with its kernels, {error}"
        return self._open_session(bundle, plain(reason))

    def _providers(self) -> list[str]:
        return [self._provider] if self._provider == CPU else [self._provider, CPU]

    def _refuse(self, entry: Entry, reason: str) -> None:
        reason = reason.replace(f"{entry.folder}/", "")
        entry.state, entry.reason = "refused", reason
        fields = {"model": entry.name, "version": entry.version, "reason": reason}
        _logger.error("model refused", extra={"fields": fields})

    def _announce(self, model: Loaded) -> None:
        kernel = model.session.kernel
        fields = {
            "model": model.name,
            "version": model.version,
            "kernel_path": kernel.path,
            "kernel_reason": kernel.reason,
            "provider": model.session.provider,
            "load_seconds": model.load_seconds,
            "golden_difference": f"{model.golden_difference:.2g}",
        }
        fell_back = kernel.path == "plain" and bool(model.manifest.graph.custom_ops)
        _logger.log(logging.WARNING if fell_back else logging.INFO, "model ready", extra={"fields": fields})


def _scan(root: Path) -> Iterator[Entry]:
    """Yield the newest version of each name; folders that are no NAME/VERSION are left out with a warning."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not re.fullmatch(NAME_PATTERN, folder.name):
            _logger.warning("not a model's name", extra={"fields": {"folder": folder, "pattern": NAME_PATTERN}})
            continue
        versions = []
        for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if _VERSION.fullmatch(path.name):
                versions.append(int(path.name))
            else:
                _logger.warning("not a version number", extra={"fields": {"folder": path}})
        if versions:
            newest = max(versions)
            others = tuple(str(version) for version in sorted(versions) if version != newest)
            yield Entry(folder.name, str(newest), folder / str(newest), others)
