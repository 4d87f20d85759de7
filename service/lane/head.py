"""The head of an answer, in one piece of bytes."""

from service.security.headers import with_security

_OK = b"HTTP/1.1 200 OK\r\n"

Headers = list[tuple[bytes, bytes]]


class Heads:
    """Writes heads; what all have in common is put together once."""

    def __init__(self, *, tls: bool) -> None:
        """Take the headers that every answer of the service carries."""
        self._security = _lines(with_security((), tls=tls))
        self._defaults: Headers | None = None
        self._common = b""

    def ok(
        self,
        defaults: Headers,
        content_type: bytes,
        content_length: int,
        header_length: int | None,
        request_id: str,
        *,
        keep_alive: bool,
    ) -> bytes:
        """Return the head of an answer to an inference.

        Args:
            defaults: the server's own headers, such as the date; a new list whenever they change.
            content_type: of the body.
            content_length: of the body, in bytes.
            header_length: of the JSON in front of binary tensors; None if there are none.
            request_id: see `telemetry.ids`.
            keep_alive: whether another request may follow on the connection.
        """
        if defaults is not self._defaults:
            self._common = _OK + _lines(defaults) + self._security
            self._defaults = defaults
        return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%bx-request-id: %b\r\n%b\r\n" % (
            self._common,
            content_type,
            content_length,
            b"" if header_length is None else b"inference-header-content-length: %d\r\n" % header_length,
            request_id.encode(),
            b"" if keep_alive else b"connection: close\r\n",
        )


def other(defaults: Headers, status_line: bytes, headers: Headers, *, tls: bool, keep_alive: bool) -> bytes:
    """Return the head of any other answer."""
    lines = _lines([*defaults, *with_security(headers, tls=tls)])
    return b"%b%b%b\r\n" % (status_line, lines, b"" if keep_alive else b"connection: close\r\n")


def _lines(headers: Headers) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)
