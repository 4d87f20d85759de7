"""Requests that begin like the last one of their connection: clients send the same head with another body.

Like the plans of `protocol.plans`, this can only be faster than the parser, never different: it knows nothing but what
the parser found in the same bytes.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

from service.lane.target import Target

_END = b"\r\n\r\n"


class Repeat(NamedTuple):
    """A head as it was sent, what the parser read in it, and the bytes of a whole request that begins with it."""

    head: bytes
    target: Target
    headers: Mapping[bytes, bytes]
    whole: int

    @classmethod
    def of(cls, data: bytes, target: Target, headers: Mapping[bytes, bytes]) -> Self | None:
        """Remember a request that has been parsed; None unless it was all of `data`.

        One that was more, or less, leaves the parser within something: then it has to read on.
        """
        end = data.find(_END) + len(_END)
        whole = end + int(headers[b"content-length"])
        return cls(data[:end], target, headers, whole) if end >= len(_END) and whole == len(data) else None

    def is_of(self, data: bytes) -> bool:
        """Say whether `data` is a whole request with this head."""
        return len(data) == self.whole and data.startswith(self.head)
