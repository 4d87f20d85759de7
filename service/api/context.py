"""Around every request: its ids, its body's limit, security headers, its bookings, and a last resort for errors."""

import asyncio
import logging
from time import perf_counter

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import INTERNAL, problem
from service.api.state import State
from service.errors import RequestTooLarge
from service.security.headers import with_security
from service.telemetry.access import CLIENT_CLOSED
from service.telemetry.ids import REQUEST_ID, TRACEPARENT, request_id, trace_parent

_errors = logging.getLogger("service.errors")


class RequestContext:
    """ASGI middleware; one for the whole application."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        """Wrap `app`."""
        self._app = app
        self._state = state
        self._tls = state.settings.tls_certificate is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and book what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        given = dict(reversed(scope["headers"]))
        name = request_id(given.get(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = name
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = with_security(message.get("headers", ()), tls=self._tls)
                headers.append((REQUEST_ID, name.encode()))
                message["headers"] = headers
            await send(message)

        self._state.metrics.http.in_flight.inc()
        try:
            await self._app(scope, self._limited(receive, Headers(scope=scope)), send_with_headers)
        except asyncio.CancelledError:
            self._state.cut_off += 1
            raise
        except ClientDisconnect:
            pass  # while it sent its body: there is nobody to answer, and nothing is wrong here
        except Exception:
            _errors.exception("request failed", extra={"fields": {"request_id": name}})
            if not status:
                answer = problem(Request(scope), INTERNAL, "see the service's log for this request_id", {}, {})
                await answer(scope, receive, send_with_headers)
        finally:
            self._state.metrics.http.in_flight.dec()
            self._book(scope, given, status or CLIENT_CLOSED, perf_counter() - start)

    def _limited(self, receive: Receive, headers: Headers) -> Receive:
        """Refuse a body as soon as it is known to be too large: by its declared length, or while it comes in."""
        limit = self._state.settings.max_body_bytes
        declared = headers.get("content-length", "")
        received = 0

        async def limited() -> Message:
            nonlocal received
            if declared.isdecimal() and int(declared) > limit:
                raise _too_large(limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        return limited

    def _book(self, scope: Scope, given: dict[bytes, bytes], status: int, seconds: float) -> None:
        peer = scope.get("client")
        state = scope["state"]
        caller = state.get("caller")
        timing = state.get("timing")
        self._state.access.book(
            method=scope["method"],
            route=getattr(scope.get("route"), "path", "unmatched"),
            path=scope["path"],
            status=status,
            seconds=seconds,
            request_id=state["request_id"],
            client=self._state.guard.client(given.get, peer[0]) if peer else "-",
            caller=caller.name if caller is not None else "anonymous",
            parent=trace_parent(given.get(TRACEPARENT)),
            steps_ms=timing.ms if timing is not None else None,
            tokens=state.get("tokens"),
        )


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body has more than {limit} bytes", limit_bytes=limit)
