"""What a store of bundles offers. Everything here may block: it is called in threads."""

import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from service.bundle import NAME_PATTERN

LARGEST_TEXT_BYTES = 64 * 1024
"""Of a file that an operator writes by hand."""
LARGEST_LIST_BYTES = 1024 * 1024
"""Of a `SHA256SUMS`."""

_logger = logging.getLogger(__name__)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class FoundVersion:
    """A version's folder as it stood when the store was looked at; `fingerprint` changes whenever its files do."""

    name: str
    number: int
    place: str
    fingerprint: str


@dataclass
class FoundModel:
    """A model's folder: its versions, and the text of its `config.toml`."""

    name: str
    versions: dict[int, FoundVersion] = field(default_factory=dict)
    config: str | None = None


@dataclass
class Found:
    """All that a store holds; `aliases` is the text of `aliases.toml`."""

    models: dict[str, FoundModel]
    aliases: str | None = None


class Store(Protocol):
    """A tree NAME/VERSION/ of bundles."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        ...

    def scan(self) -> Found:
        """Look at all names, open nothing.

        Raises:
            StoreFailed: it cannot be read.
        """
        ...

    def digest(self, found: FoundVersion) -> str:
        """Return the SHA-256 of a version's `SHA256SUMS`: the identity of its content, as it is claimed.

        Raises:
            BundleIncomplete: it has none.
            StoreFailed: the store cannot be read.
        """
        ...

    def fetch(self, found: FoundVersion) -> Path:
        """Return a folder of this machine with the files of a version, which are yet to be verified.

        Raises:
            BundleError: the version has no list of files, or one that cannot be followed.
            StoreFailed: they cannot be read, or there is no room for them.
        """
        ...

    def discard(self, folder: Path) -> bool:
        """Take back a fetched folder whose files are damaged; True if fetching it again may help."""
        ...

    def prune(self, wanted: Iterable[FoundVersion]) -> None:
        """Delete what was kept on this machine and is not of these versions."""
        ...


class Names:
    """Tells names of models and versions from other folders, and warns of each of those once."""

    def __init__(self) -> None:
        """Start with no warning given."""
        self._warned: set[str] = set()

    def is_model(self, name: str) -> bool:
        """Tell whether a folder of the repository is a model; hidden ones are passed over in silence."""
        return not name.startswith(".") and (
            re.fullmatch(NAME_PATTERN, name) is not None or self._warn(name, "not a model's name", pattern=NAME_PATTERN)
        )

    def version(self, model: str, name: str) -> int | None:
        """Return the number of a folder of a model, None if it is no version."""
        if name.startswith("."):
            return None
        if _VERSION.fullmatch(name) and name.isascii():
            return int(name)
        self._warn(f"{model}/{name}", "not a version number")
        return None

    def _warn(self, folder: str, message: str, **fields: str) -> bool:
        if folder not in self._warned:
            self._warned.add(folder)
            _logger.warning(message, extra={"fields": {"folder": folder, **fields}})
        return False


def fingerprint(lines: Iterable[str]) -> str:
    """Return one short word for the state of several files."""
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()[:32]
