"""The headers that every answer of the service carries, whichever way it takes."""

from collections.abc import Iterable

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"cache-control", b"no-store"),
)
"""Names in lower case, as ASGI wants them. An answer that sets one of them itself keeps its own value."""

TRANSPORT_HEADER = (b"strict-transport-security", b"max-age=31536000")
"""Added where the service itself speaks TLS."""


def with_security(headers: Iterable[tuple[bytes, bytes]], *, tls: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with these added."""
    own = list(headers)
    names = {name.lower() for name, _ in own}
    own += [header for header in SECURITY_HEADERS if header[0] not in names]
    if tls:
        own.append(TRANSPORT_HEADER)
    return own
