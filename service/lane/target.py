"""Which requests take the short way."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

_PREFIX, _SUFFIX = "/v2/models/", "/infer"
_MODEL_ROUTE = "/v2/models/{name}/infer"
_VERSION_ROUTE = "/v2/models/{name}/versions/{version}/infer"
LARGEST_BODY = 64 * 1024
"""In bytes. A larger body is decoded in a thread, so that nobody else has to wait for it."""
_DIGITS = len(str(LARGEST_BODY))
_UNUSUAL = frozenset({b"content-encoding", b"expect", b"origin", b"transfer-encoding", b"upgrade"})
"""Headers that change how a request is read or answered."""
_MEDIA_TYPES = frozenset({None, b"application/json", b"application/octet-stream"})


class Target(NamedTuple):
    """What a path asks for, the path itself, and its template in the table of routes."""

    name: str
    version: str | None
    route: str
    path: str


@lru_cache(maxsize=256)
def read_target(path: bytes) -> Target | None:
    """Return what a request's target asks for; None if it is not the plain path of an inference."""
    if b"%" in path or b"?" in path or b"#" in path:
        return None
    text = path.decode("latin-1")
    if not (text.startswith(_PREFIX) and text.endswith(_SUFFIX)):
        return None
    match text[len(_PREFIX) : -len(_SUFFIX)].split("/"):
        case [name] if name:
            return Target(name, None, _MODEL_ROUTE, text)
        case [name, "versions", version] if name and version:
            return Target(name, version, _VERSION_ROUTE, text)
    return None


def is_plain(headers: Mapping[bytes, bytes]) -> bool:
    """Say whether a request has a body of known, small size, and nothing that needs a closer look."""
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > _DIGITS or int(length) > LARGEST_BODY:
        return False
    return headers.get(b"content-type") in _MEDIA_TYPES and _UNUSUAL.isdisjoint(headers)
