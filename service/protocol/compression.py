"""Compressed bodies, opened no further than the limit of a body that comes as it is."""

import zlib
from typing import Final

from service.errors import InvalidRequest, RequestTooLarge

WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib must know of each `Content-Encoding` that is read; `deflate` means zlib's format (RFC 9110, 8.4.1.2)."""


def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return the content of a body; whatever is behind the end of the compressed stream is an error.

    Raises:
        RequestTooLarge: the content has more than `limit_bytes`.
        InvalidRequest: it is damaged or not complete.
    """
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        content = stream.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding}: {error}") from error
    if len(content) > limit_bytes:
        raise RequestTooLarge(f"the body has more than {limit_bytes} bytes when unpacked", limit_bytes=limit_bytes)
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(f"the body is not one complete {encoding} stream")
    return content
