"""From a setting to a store."""

from pathlib import Path

from service.repository.stores.local import LocalStore
from service.repository.stores.remote import RemoteStore
from service.repository.stores.store import Store


def open_store(root: Path | str, cache: Path) -> Store:
    """Take `scheme://...` for a remote store and everything else, also `file://...`, for a folder.

    Raises:
        StoreFailed: there is no access to this kind of store.
    """
    text = str(root)
    if isinstance(root, Path) or "://" not in text:
        return LocalStore(Path(root).expanduser())
    if text.startswith("file://"):
        return LocalStore(Path(text.removeprefix("file://")))
    return RemoteStore(text, cache.expanduser())
