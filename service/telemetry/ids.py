"""Names of requests: an id for people and support, and the trace that the request is part of (W3C Trace Context)."""

import itertools
import os
import re
from typing import NamedTuple

REQUEST_ID = b"x-request-id"
TRACEPARENT = b"traceparent"

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16
_PROCESS = os.urandom(8).hex()
_count = itertools.count(1)
"""An id names a request and keeps no secret: asking the system for random bits each time would only cost."""


class TraceParent(NamedTuple):
    """The caller's place in its trace: ids as hexadecimal text, and whether the caller records it."""

    trace_id: str
    span_id: str
    sampled: bool


def request_id(given: bytes | None) -> str:
    """Take the caller's `X-Request-ID` if it is fit for headers and logs, else draw one."""
    if given is not None and _ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_PROCESS}{next(_count):016x}"


def trace_parent(given: bytes | None) -> TraceParent | None:
    """Read a `traceparent` header; None if there is none or it is not valid, which starts a new trace.

    Source: W3C Trace Context, section 3.2. Later versions may add fields at the end, version 00 may not.
    """
    if given is None:
        return None
    found = _PARENT.fullmatch(given.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1))
