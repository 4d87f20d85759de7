"""One call from its arrival to its end: who asks, the answer or the error, and its bookings."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, NoReturn
from urllib.parse import unquote

from service.api.state import State
from service.errors import ServiceError
from service.grpc.status import CODES, http_status, trailers
from service.security.caller import NOBODY, Caller, Scope
from service.telemetry.access import CLIENT_CLOSED
from service.telemetry.ids import REQUEST_ID, TRACEPARENT, request_id, trace_parent

_OK = 200

_errors = logging.getLogger("service.errors")


class Exchange:
    """What is known of a call; a stream is one for as long as it lasts."""

    def __init__(self, state: State, context: Any, path: str) -> None:
        """Read the call's metadata; `path` is `/SERVICE/METHOD`."""
        self._state = state
        self._context = context
        self._path = path
        self._metadata = {
            key: value.encode() if isinstance(value, str) else value
            for key, value in context.invocation_metadata() or ()
        }
        self._address = _address(context.peer())
        self._caller: Caller = NOBODY
        self.id = request_id(self._metadata.get(REQUEST_ID.decode()))
        # Sent with the first message of the answer, or with the error.
        self._trailing = ((REQUEST_ID.decode(), self.id),)
        context.set_trailing_metadata(self._trailing)

    def admit(self, scope: Scope) -> None:
        """Let the guard look at the caller, and count a request against its limits.

        Raises:
            ServiceError: it may not do this, or not so often.
        """
        self._caller = self._state.guard.admit(self._header, scope, self._address)

    @asynccontextmanager
    async def booked(self) -> AsyncIterator[None]:
        """Book what happens inside as one request: how long it took, and how it ended."""
        start, status = perf_counter(), _OK
        self._state.metrics.http.in_flight.inc()
        try:
            yield
        except asyncio.CancelledError:
            status = CLIENT_CLOSED
            raise
        except Exception as error:
            status = http_status(error)
            if not isinstance(error, ServiceError):
                _errors.exception("request failed", extra={"fields": {"request_id": self.id}})
            raise
        finally:
            self._state.metrics.http.in_flight.dec()
            self._book(status, perf_counter() - start)

    async def abort(self, error: Exception) -> NoReturn:
        """End the call with an error; what is no error of the service's own is not told in its words."""
        self._context.set_trailing_metadata((*self._trailing, *trailers(error)))
        await self._context.abort(CODES[http_status(error)], words(error, self.id))
        raise AssertionError("abort raises")  # for the type checker

    def _header(self, name: bytes) -> bytes | None:
        return self._metadata.get(name.decode())

    def _book(self, status: int, seconds: float) -> None:
        self._state.access.book(
            method="GRPC",
            route=self._path,
            path=self._path,
            status=status,
            seconds=seconds,
            request_id=self.id,
            client=self._state.guard.client(self._header, self._address) if self._address else "-",
            caller=self._caller.name,
            parent=trace_parent(self._header(TRACEPARENT)),
        )


async def answered(state: State, context: Any, path: str, scope: Scope, answer: Callable[[], Awaitable[Any]]) -> Any:
    """Answer a call of one message, or end it with the error that it met."""
    exchange = Exchange(state, context, path)
    try:
        async with exchange.booked():
            exchange.admit(scope)
            return await answer()
    except Exception as error:
        await exchange.abort(error)


def words(error: Exception, request_id: str) -> str:
    """Return what the caller is told of an error."""
    return str(error) if isinstance(error, ServiceError) else f"see the service's log for request_id {request_id}"


def _address(peer: str) -> str:
    """Return the address in gRPC's `ipv4:1.2.3.4:5` or `ipv6:[::1]:5`; empty for what is none."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
