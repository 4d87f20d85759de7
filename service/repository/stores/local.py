"""A folder of this machine as the store of bundles."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.bundle import CHECKSUMS_NAME
from service.errors import BundleIncomplete, StoreFailed
from service.repository.aliases import ALIASES_NAME
from service.repository.config import CONFIG_NAME
from service.repository.stores.store import LARGEST_TEXT_BYTES, Found, FoundModel, FoundVersion, Names, fingerprint


class LocalStore:
    """The folders NAME/VERSION/ below `root`. Folders may be links; what is in a bundle must not lead out of it."""

    def __init__(self, root: Path) -> None:
        """Look at nothing yet."""
        self._root = root
        self._names = Names()

    @property
    def place(self) -> str:
        """The folder's absolute path."""
        return str(self._root.absolute())

    def scan(self) -> Found:
        """Look at every name and at size and times of every file.

        Raises:
            StoreFailed: the folder is not there or cannot be read.
        """
        if not self._root.is_dir():
            raise StoreFailed(f"there is no folder {self.place}")
        try:
            models = [self._model(folder) for folder in _folders(self._root) if self._names.is_model(folder.name)]
            return Found({model.name: model for model in models if model.versions}, _text(self._root, ALIASES_NAME))
        except OSError as error:
            raise StoreFailed(f"{self.place} cannot be read: {error}") from error

    def digest(self, found: FoundVersion) -> str:
        """Return the SHA-256 of the version's `SHA256SUMS`.

        Raises:
            BundleIncomplete: it cannot be read.
        """
        path = Path(found.place) / CHECKSUMS_NAME
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BundleIncomplete(f"{path} is missing") from error

    def fetch(self, found: FoundVersion) -> Path:
        """Return the version's own folder."""
        return Path(found.place)

    def discard(self, folder: Path) -> bool:
        """Delete nothing: the folder is the operator's."""
        return False

    def prune(self, wanted: Iterable[FoundVersion]) -> None:
        """Delete nothing: the folder is the operator's."""

    def _model(self, folder: Path) -> FoundModel:
        model = FoundModel(folder.name, config=_text(folder, CONFIG_NAME))
        for version in _folders(folder):
            if number := self._names.version(folder.name, version.name):
                print_ = fingerprint(_state(version))
                model.versions[number] = FoundVersion(folder.name, number, str(version), print_)
        return model


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _text(folder: Path, name: str) -> str | None:
    """Return a small text file, None if there is none; what is no UTF-8 is left to the parser to complain about."""
    path = folder / name
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(LARGEST_TEXT_BYTES)


def _state(folder: Path) -> Iterator[str]:
    """Yield a line for each file. The time of change (ctime) tells of every write; no program can set it back."""
    for parent, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError as error:  # it has just been removed, or leads nowhere
                yield f"{path} {error.errno}"
            else:
                yield f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
