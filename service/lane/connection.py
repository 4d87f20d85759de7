"""uvicorn's connection with a short way for inference requests; all others go through it as ever."""

import logging
from typing import Any, ClassVar

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.connection import Connection
from service.lane.exchange import Exchange, Lane
from service.lane.target import is_plain, read_target

_logger = logging.getLogger(__name__)
_FIELDS = {"fields": {"uvicorn": uvicorn.__version__}}


class LaneConnection(Connection):
    """Answers plain inference requests itself; parsing, pipelining, timeouts and limits remain those of the base."""

    lane: ClassVar[Lane]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin without a request."""
        super().__init__(*arguments, **options)
        self._exchange: Exchange | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Hold a request back until its body has come, if it can take the short way; start the others."""
        self._exchange = None
        # A pipelined request starts here when the one before it has been answered; it is not the newest then, or whole.
        # And who does not read what we write has to wait, which only ASGI knows how to do.
        if cycle is self.cycle and cycle.more_body and app is self.app and not self.flow.write_paused:
            target = read_target(self.url) if cycle.scope["method"] == "POST" else None
            if target is not None:
                headers = dict(reversed(self.headers))
                if is_plain(headers):
                    self._exchange = Exchange(self.lane, cycle, target, headers)
                    return
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """Run a request that was held back."""
        super().on_message_complete()
        exchange = self._exchange
        if exchange is not None and exchange.belongs_to(self.cycle) and not self.transport.is_closing():
            exchange.run()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take a request that is not answered yet out of the queue."""
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.abandon()
            self._exchange = None


def with_lane(lane: Lane) -> type[Connection]:
    """Return the protocol for a service; it has no short way where this uvicorn does not let us in."""
    if not hasattr(HttpToolsProtocol, "_start_asgi_task"):
        _logger.warning("inference takes the long way: this uvicorn starts requests differently", extra=_FIELDS)
        return Connection
    return type(LaneConnection.__name__, (LaneConnection,), {"lane": lane})
