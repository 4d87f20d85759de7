"""A connection that bounds what its client may do: how large a head, how slow, how many of them at once."""

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.problems import INTERNAL, MEDIA_TYPE, URN, Kind
from service.security.headers import with_security

MALFORMED = Kind(400, "malformed", "This is not HTTP")
SLOW_REQUEST = Kind(408, "slow-request", "The request took too long to come")
LARGE_HEAD = Kind(431, "large-head", "The head of the request is too large")
TOO_MANY_CONNECTIONS = Kind(503, "too-many-connections", "Too many connections are open")
KINDS = (MALFORMED, SLOW_REQUEST, LARGE_HEAD, TOO_MANY_CONNECTIONS)
"""Answers that come before there is a request; the slugs are the reasons of the metric, beside `slow-reader`."""

SLOW_READER = "slow-reader"

_logger = logging.getLogger(__name__)


def _no_metric(reason: str) -> None:
    """Stand in for a counter."""


@dataclass(frozen=True)
class ConnectionLimits:
    """The settings of the group Connections, and the two ends of the service that a connection talks to.

    `client_seconds` bounds the time to send one request, and the time to take nothing of an answer. `refused` is told
    why a connection was closed.
    """

    header_bytes: int
    connections: int
    client_seconds: float
    draining: Callable[[], bool] = lambda: False
    refused: Callable[[str], None] = _no_metric


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with these limits; `limits` is set on a subclass, by `bounded`."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin with nothing received."""
        super().__init__(*arguments, **options)
        self._received = 0  # bytes since the request began; what counts is its head
        self._in_head = True
        self._since: float | None = None  # when the request began that is still being sent
        self._unsent = 0
        self._unsent_since: float | None = None
        self._idle_since: float | None = None  # when the last answer had gone out, if nothing came since

    def connection_made(self, transport: Any) -> None:
        """Take the connection, unless there are too many; the time for its first request begins."""
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self.limits.connections:
            self._refuse(TOO_MANY_CONNECTIONS, f"{self.limits.connections} connections are open; try again later")

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse a head that has become too large before it has ended."""
        if self.transport.is_closing():
            return
        self._idle_since = None
        if self._since is None:
            self._since = self.loop.time()
        if self._in_head:
            self._received += len(data)
        super().data_received(data)
        if self._in_head and self._received > self.limits.header_bytes and not self.transport.is_closing():
            self._head_too_large()

    def on_message_begin(self) -> None:
        """Begin to count a head; the bytes at hand, which it came with, are counted already."""
        self._begin_request()
        self._in_head = True
        if self._since is None:  # the next request came with the last one's end
            self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large; the last answer of a service that stops ends its connection."""
        self._in_head = False
        if self._received > self.limits.header_bytes and self._head_bytes() > self.limits.header_bytes:
            self._head_too_large()
            return
        self._take_head()
        if self.limits.draining() and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, unless the connection was given up."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock: the client has sent its part."""
        self._since = None
        self._received = 0
        self._in_head = True
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what was pipelined, or be idle: `sweep` looks for how long, which needs no timer per request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read; what failed here, say for memory, is not the client's fault."""
        error = sys.exc_info()[1]
        if isinstance(error, httptools.HttpParserCallbackError):
            _logger.error("a request could not be taken", exc_info=error)
            self._refuse(INTERNAL, "the request could not be taken; the service's log says why")
            return
        self._refuse(MALFORMED, "the request cannot be read as HTTP/1.1")

    def shutdown(self) -> None:
        """Stop after the request that is under way, also one of which only a part has come."""
        waiting = self.cycle is None or self.cycle.response_complete
        if not (waiting and self._in_head and self._received):
            super().shutdown()

    def sweep(self, now: float) -> None:
        """Give the connection up if its client has been too slow, or idle for too long; `now` is the loop's time."""
        if self._since is not None and self.pipeline:
            self._since = now  # it waits for us, not we for it
        elif self._since is not None and now - self._since > self.limits.client_seconds:
            seconds = f"{self.limits.client_seconds:g}"
            self._refuse(SLOW_REQUEST, f"the request did not come whole within {seconds} s")
            return
        unsent = self.transport.get_write_buffer_size()
        if not unsent and self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive:
            self.transport.close()
            return
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now if unsent else None
        elif self._unsent_since is not None and now - self._unsent_since > self.limits.client_seconds:
            self.limits.refused(SLOW_READER)
            self.transport.abort()

    def _begin_request(self) -> None:
        super().on_message_begin()

    def _take_head(self) -> None:
        super().on_headers_complete()

    def _answering(self) -> bool:
        return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_too_large(self) -> None:
        self._refuse(LARGE_HEAD, f"the head of the request has more than {self.limits.header_bytes} bytes")

    def _refuse(self, kind: Kind, message: str) -> None:
        """Answer before there is a request that the application could answer, and close."""
        self.limits.refused(kind.slug)
        if not self._answering():
            self.transport.write(refusal(kind, message))
        self.transport.close()


def refusal(kind: Kind, message: str) -> bytes:
    """Return an answer to something that never became a request; like every answer, but without a request id."""
    members = {"type": URN + kind.slug, "title": kind.title, "status": kind.status, "detail": message}
    body = orjson.dumps(members)
    head = [b"HTTP/1.1 %d %s" % (kind.status, HTTPStatus(kind.status).phrase.encode())]
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    headers.append((b"connection", b"close"))
    head += [name + b": " + value for name, value in with_security(headers, tls=False)]
    return b"\r\n".join([*head, b"", body])


def bounded(protocol: type[Connection], limits: ConnectionLimits) -> type[Connection]:
    """Return the protocol with its limits."""
    return type(protocol.__name__, (protocol,), {"limits": limits})


def sweep(connections: Iterable[object]) -> None:
    """Look at every open connection; called about once a second."""
    for connection in list(connections):
        if isinstance(connection, Connection) and not connection.transport.is_closing():
            connection.sweep(connection.loop.time())
