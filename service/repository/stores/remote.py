"""An object store or hub as the store of bundles, through fsspec; versions are kept in a folder of this machine.

A version appears in the cache whole or not at all, under the digest of its list of files. Only files of that list are
fetched, and their names come from that list alone after it has been checked, so no name of the store decides where
something is written.
"""

import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service.bundle import CHECKSUMS_NAME, SIGNATURE_NAME, parse_checksums
from service.errors import BundleCorrupt, BundleIncomplete, ServiceError, StoreFailed
from service.repository.aliases import ALIASES_NAME
from service.repository.config import CONFIG_NAME
from service.repository.stores.store import (
    LARGEST_LIST_BYTES,
    LARGEST_TEXT_BYTES,
    Found,
    FoundModel,
    FoundVersion,
    Names,
    fingerprint,
)

_logger = logging.getLogger(__name__)
_PART = 1024 * 1024
_PARTIAL = ".partial-"
_MARKERS = (
    *("etag", "ETag", "md5Hash", "content_md5", "blob_id"),
    *("mtime", "LastModified", "last_modified", "updated", "created"),
)
_KEEP_SECONDS = 24 * 3600.0
"""How long a version that nobody asks for stays: another service may use the same cache."""


class RemoteStore:
    """The tree NAME/VERSION/ below a URL such as `s3://bucket/models` or `hf://owner/name`."""

    def __init__(self, url: str, cache: Path) -> None:
        """Ask nothing of the store yet.

        Raises:
            StoreFailed: the URL has no known protocol, the package for it is not installed, or it cannot be set up.
        """
        self._url = url
        self._cache = cache
        self._names = Names()
        try:
            import fsspec  # an extra: not needed for folders

            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreFailed(f"{url}: {error}; install deep-delta-serving[stores] and what it names") from error
        except Exception as error:  # each kind of store has its own
            raise StoreFailed(f"{url}: {type(error).__name__}: {error}") from error

    @property
    def place(self) -> str:
        """The URL."""
        return self._url

    def scan(self) -> Found:
        """List every file of the store in one request.

        Raises:
            StoreFailed: it cannot be read.
        """
        with self._reaching():
            self._files.invalidate_cache()
            listed: Mapping[str, Mapping[str, Any]] = self._files.find(self._root, detail=True)
            models: dict[str, FoundModel] = {}
            states: dict[tuple[str, int], list[str]] = {}
            files = set()
            for path, info in listed.items():
                parts = self._inner(path).split("/")
                files.add("/".join(parts))
                if len(parts) < 3 or not self._names.is_model(parts[0]):
                    continue
                if number := self._names.version(parts[0], parts[1]):
                    states.setdefault((parts[0], number), []).append(_state(path, info))
            for (name, number), lines in states.items():
                model = models.setdefault(name, FoundModel(name))
                place = f"{self._root}/{name}/{number}"
                model.versions[number] = FoundVersion(name, number, place, fingerprint(lines))
            for model in models.values():
                model.config = self._text(f"{model.name}/{CONFIG_NAME}", files)
            return Found(models, self._text(ALIASES_NAME, files))

    def digest(self, found: FoundVersion) -> str:
        """Return the SHA-256 of the version's `SHA256SUMS`.

        Raises:
            BundleIncomplete: it has none.
            StoreFailed: the store cannot be read.
        """
        return hashlib.sha256(self._list(found)).hexdigest()

    def fetch(self, found: FoundVersion) -> Path:
        """Return the version's folder in the cache, after filling it if it is not there.

        Raises:
            BundleError: the version has no list of files, or one that cannot be followed, or a file is missing.
            StoreFailed: a file cannot be read, or there is no room for it.
        """
        content = self._list(found)
        folder = self._kept(found, hashlib.sha256(content).hexdigest())
        if not folder.is_dir():
            try:
                self._fill(found, content, folder)
            except OSError as error:
                raise self._no_room(error) from error
        with suppress(OSError):
            os.utime(folder)
        return folder

    def discard(self, folder: Path) -> bool:
        """Delete a folder of the cache whose files are not what they were."""
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    def prune(self, wanted: Iterable[FoundVersion]) -> None:
        """Delete versions that are not among these and have not been used for a day, and what was left half done."""
        kept = {f"{found.name}/{found.number}-" for found in wanted}
        for folder in self._cache.glob("*/*"):
            is_wanted = any(f"{folder.parent.name}/{folder.name}".startswith(start) for start in kept)
            with suppress(OSError):
                if not is_wanted and time.time() - folder.stat().st_mtime > _KEEP_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)

    def _kept(self, found: FoundVersion, digest: str) -> Path:
        return self._cache / found.name / f"{found.number}-{digest[:32]}"

    def _fill(self, found: FoundVersion, content: bytes, folder: Path) -> None:
        """Download into a folder beside, then rename it."""
        names = parse_checksums(content, self._shown(f"{found.place}/{CHECKSUMS_NAME}"))
        with self._reaching():
            infos = {name: self._files.info(f"{found.place}/{name}") for name in names}
        folder.parent.mkdir(parents=True, exist_ok=True)
        size = sum(int(info["size"] or 0) for info in infos.values())
        free = shutil.disk_usage(folder.parent).free
        if size > free:
            raise OSError(errno.ENOSPC, f"{size} bytes are needed, {free} are free")
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
        try:
            for name, digest in names.items():
                self._download(f"{found.place}/{name}", partial / name, int(infos[name]["size"] or 0), digest)
            if self._files.exists(f"{found.place}/{SIGNATURE_NAME}"):
                with self._reaching():
                    signature = self._read(f"{found.place}/{SIGNATURE_NAME}", LARGEST_TEXT_BYTES)
                (partial / SIGNATURE_NAME).write_bytes(signature)
            (partial / CHECKSUMS_NAME).write_bytes(content)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process may have been quicker
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _download(self, source: str, target: Path, size: int, digest: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        hasher, written = hashlib.sha256(), 0
        with target.open("wb") as file:
            for part in self._parts(source):
                written += len(part)
                if size and written > size:
                    raise BundleCorrupt(f"{self._shown(source)} grows while it is read, beyond {size} bytes")
                hasher.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if hasher.hexdigest() != digest:
            raise BundleCorrupt(f"{self._shown(source)} has SHA-256 {hasher.hexdigest()}, expected {digest}")

    def _parts(self, source: str) -> Iterator[bytes]:
        with self._reaching():
            remote = self._files.open(source, "rb")
        with remote:
            while True:
                with self._reaching():
                    part: bytes = remote.read(_PART)
                if not part:
                    return
                yield part

    def _list(self, found: FoundVersion) -> bytes:
        with self._reaching():
            return self._read(f"{found.place}/{CHECKSUMS_NAME}", LARGEST_LIST_BYTES)

    def _text(self, inner: str, files: set[str]) -> str | None:
        if inner not in files:
            return None
        return self._read(f"{self._root}/{inner}", LARGEST_TEXT_BYTES).decode(errors="replace")

    def _read(self, path: str, limit: int) -> bytes:
        with self._files.open(path, "rb") as file:
            content: bytes = file.read(limit + 1)
        if len(content) > limit:
            raise BundleCorrupt(f"{self._shown(path)} is larger than {limit} bytes")
        return content

    def _shown(self, path: str) -> str:
        return f"{self._url.rstrip('/')}/{self._inner(path)}"

    def _inner(self, path: str) -> str:
        """Return a path below the root; the names in it are checked one by one."""
        return path.removeprefix(self._root).strip("/")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn whatever a kind of store raises into an error of ours."""
        try:
            yield
        except ServiceError:
            raise
        except FileNotFoundError as error:
            raise BundleIncomplete(f"{error.args[-1] if error.args else 'a file'} is missing in {self._url}") from error
        except Exception as error:
            raise StoreFailed(f"{self._url} cannot be read: {type(error).__name__}: {error}") from error

    def _no_room(self, error: OSError) -> StoreFailed:
        fix = "free some room, or set cache_folder" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check it"
        return StoreFailed(f"the cache {self._cache.absolute()} cannot be written: {error.strerror or error}; {fix}")


def _state(path: str, info: Mapping[str, Any]) -> str:
    """Return what changes when a file does, in whichever words this kind of store has for it."""
    markers = [str(info[marker]) for marker in _MARKERS if marker in info]
    return " ".join([path, str(info.get("size")), *markers])
