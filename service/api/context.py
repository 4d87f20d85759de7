"""Around every request: its id, the limit of its body, metrics, a line in the log, and a last resort for errors."""

import asyncio
import logging
import re
import uuid
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import INTERNAL, problem
from service.api.state import State
from service.errors import RequestTooLarge

REQUEST_ID = "X-Request-ID"

_logger = logging.getLogger("service.access")
_errors = logging.getLogger("service.errors")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = ("/v2/health/", "/metrics")
_CLIENT_CLOSED = 499


class RequestContext:
    """ASGI middleware; one for the whole application."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        """Wrap `app`."""
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and book what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        self._state.metrics.requests_in_flight.inc()
        try:
            await self._app(scope, self._limited(receive, headers), send_with_id)
        except asyncio.CancelledError:
            self._state.cut_off += 1
            raise
        except Exception:
            _errors.exception("request failed", extra={"fields": {"request_id": request_id}})
            if not status:
                answer = problem(Request(scope), INTERNAL, "see the service's log for this request_id", {}, {})
                await answer(scope, receive, send_with_id)
        finally:
            self._state.metrics.requests_in_flight.dec()
            self._book(scope, status or _CLIENT_CLOSED, perf_counter() - start, request_id)

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

    def _book(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._state.metrics.requests.labels(route, method, str(status)).inc()
        self._state.metrics.request_seconds.labels(route, method).observe(seconds)
        client = scope.get("client")
        fields = {
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "ms": seconds * 1000,
            "client": client[0] if client else "-",
            "request_id": request_id,
        }
        quiet = scope["path"].startswith(_QUIET) and status < 400
        _logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})


def _request_id(headers: Headers) -> str:
    """Take the caller's id if it is fit for headers and logs, else make one."""
    given = headers.get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body has more than {limit} bytes", limit_bytes=limit)
