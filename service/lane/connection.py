"""uvicorn's connection with a short way for inference requests; all others go through it as ever."""

import logging
from typing import Any, ClassVar, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.connection import Connection
from service.lane.exchange import Exchange, Lane
from service.lane.repeat import Repeat
from service.lane.target import is_plain, read_target

_logger = logging.getLogger(__name__)
_FIELDS = {"fields": {"uvicorn": uvicorn.__version__}}
_NEEDED = ("_start_asgi_task", "on_message_begin", "on_headers_complete", "on_response_complete")


class LaneConnection(Connection):
    """Answers plain inference requests itself; parsing, pipelining, timeouts and limits remain those of the base.

    An `Exchange` stands where the base has its cycle of request and response, and has what the base looks at there.
    """

    lane: ClassVar[Lane]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin without a request."""
        super().__init__(*arguments, **options)
        self._exchange: Exchange | None = None
        self._repeat: Repeat | None = None  # what the parser read last, if it was just one request of the short way

    def data_received(self, data: bytes) -> None:
        """Take a request whose head is the last one's without parsing it again; parse everything else."""
        cycle: Any = self.cycle
        repeat = self._repeat
        if (
            repeat is not None
            and cycle.response_complete
            and (body := repeat.body(data)) is not None
            and not self.flow.write_paused
            and not self.transport.is_closing()
        ):
            self._idle_since = None
            keep_alive = not self.limits.draining()
            self._exchange = Exchange(self.lane, self, repeat.target, repeat.headers, keep_alive=keep_alive)
            self._exchange.body, self._exchange.more_body = body, False
            self.cycle = self._exchange  # type: ignore[assignment]
            self._exchange.run()
            return
        self._repeat, begins = None, not self._received
        super().data_received(data)
        latest, cycle_now = self._exchange, cast("Any", self.cycle)
        if begins and latest is not None and latest is cycle_now is not cycle and latest.keep_alive:
            self._repeat = Repeat.of(data, latest.target, latest.headers)

    def on_message_complete(self) -> None:
        """Run a request that takes the short way."""
        super().on_message_complete()
        cycle: Any = self.cycle
        if cycle is self._exchange and cycle is not None and not self.transport.is_closing():
            cycle.run()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take a request that is not answered yet out of the queue."""
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.abandon()
            self._exchange = None

    def _begin_request(self) -> None:
        """Do without what the application needs, until it is known that it gets the request."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def _take_head(self) -> None:
        target = None
        # Who pipelines waits for the answer before; who does not read what we write has to wait, too: the application
        # knows how to do that.
        if (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused:
            target = read_target(self.url)
        if target is not None and self.parser.get_method() == b"POST":
            headers = dict(reversed(self.headers))
            if is_plain(headers):
                keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
                self._exchange = Exchange(self.lane, self, target, headers, keep_alive=keep_alive)
                self.cycle = self._exchange  # type: ignore[assignment]
                return
        url, headers_list, expected = self.url, self.headers, self.expect_100_continue
        super()._begin_request()
        self.url, self.headers, self.expect_100_continue = url, headers_list, expected
        self.scope["headers"] = headers_list
        super()._take_head()


def with_lane(lane: Lane) -> type[Connection]:
    """Return the protocol for a service; it has no short way where this uvicorn does not let us in."""
    if not all(hasattr(HttpToolsProtocol, name) for name in _NEEDED):
        _logger.warning("inference takes the long way: this uvicorn starts requests differently", extra=_FIELDS)
        return Connection
    return type(LaneConnection.__name__, (LaneConnection,), {"lane": lane})
