"""Requests that begin like the last one of their connection: clients send the same head with another body.

Like the plans of `protocol.plans`, this can only be faster than the parser, never different: it knows nothing but what
the parser found in the same bytes. Only the length of the body may be another.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from service.lane.target import LARGEST_BODY, Target

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_LONGEST_NUMBER = len(str(LARGEST_BODY))


class Repeat(NamedTuple):
    """A head as it was sent, in two pieces around the body's length, and what the parser read in it."""

    before: bytes
    after: bytes
    target: Target
    headers: Mapping[bytes, bytes]
    """Without the length."""

    @classmethod
    def of(cls, data: bytes, target: Target, headers: Mapping[bytes, bytes]) -> Self | None:
        """Remember a request that has been parsed; None unless it was all of `data`.

        One that was more, or less, leaves the parser within something: then it has to read on.
        """
        end = data.find(_END) + len(_END)
        if end < len(_END) or end + int(headers[b"content-length"]) != len(data):
            return None
        length = _LENGTH.search(data, 0, end)
        if length is None:
            return None
        others = {name: value for name, value in headers.items() if name != b"content-length"}
        return cls(data[: length.start(1)], data[length.end(1) : end], target, others)

    def body(self, data: bytes) -> bytes | None:
        """Return the body of `data` if that is a whole request with this head and a body that is not too large."""
        if not data.startswith(self.before):
            return None
        begin = len(self.before)
        end = data.find(b"\r", begin, begin + _LONGEST_NUMBER + 1)
        number = data[begin:end]
        if end < 0 or not number.isdigit() or not data.startswith(self.after, end):
            return None
        begin, length = end + len(self.after), int(number)
        return data[begin:] if length <= LARGEST_BODY and len(data) == begin + length else None
