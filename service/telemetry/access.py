"""The end of a request, booked in one place for every protocol: metrics, the line in the log, the span."""

import logging
from collections.abc import Mapping
from time import time
from typing import Protocol

from service.metrics import Metrics
from service.telemetry.ids import TraceParent

_logger = logging.getLogger("service.access")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GRPC"})
_QUIET = ("/v2/health/", "/metrics")
_LONGEST_PATH = 200
CLIENT_CLOSED = 499
"""The status that is booked for a request whose caller hung up before the answer began."""


class Spans(Protocol):
    """Takes finished requests as spans of a trace."""

    def record(
        self,
        name: str,
        *,
        start: float,
        end: float,
        parent: TraceParent | None,
        attributes: Mapping[str, str | int],
        steps_ms: Mapping[str, float],
        failed: bool,
    ) -> str | None:
        """Take one request; times are seconds since 1970. Returns the trace's id, None if it is not traced."""


LEAST_LOGGED = {"all": 0, "errors": 400, "off": 1000}
"""The least status that gets a line, by the setting access_log."""


class Access:
    """Books requests; one for the whole service."""

    def __init__(self, metrics: Metrics, spans: Spans | None = None, *, least_logged: int = 0) -> None:
        """Book into `metrics`, and as spans if somebody takes them; a status below `least_logged` gets no line."""
        self._metrics = metrics
        self._spans = spans
        self._least_logged = least_logged

    def book(
        self,
        *,
        method: str,
        route: str,
        path: str,
        status: int,
        seconds: float,
        request_id: str,
        client: str,
        caller: str = "anonymous",
        parent: TraceParent | None = None,
        steps_ms: Mapping[str, float] | None = None,
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        """Book one request.

        Args:
            method: as the client sent it; unknown ones are counted together.
            route: the path's template, for the metrics; `unmatched` if there is none.
            path: as the client sent it.
            status: of the answer, `CLIENT_CLOSED` if none began.
            seconds: from the request's head to the answer's last byte.
            request_id: see `telemetry.ids`.
            client: the address of the client.
            caller: the name that the guard gave it.
            parent: the caller's place in its trace.
            steps_ms: durations of the steps, in their order, for the trace.
            tokens: of a request about text, how many went in and came out, by name.
        """
        known = method if method in _METHODS else "other"
        self._metrics.http.answered(route, known, status, seconds)
        quiet = status < 400 and path.startswith(_QUIET)
        trace_id = parent.trace_id if parent is not None else None
        if self._spans is not None and not quiet:
            end = time()
            attributes: dict[str, str | int] = {
                "http.request.method": known,
                "http.route": route,
                "http.response.status_code": status,
                "url.path": path[:_LONGEST_PATH],
                "client.address": client,
                "ddl.request_id": request_id,
                "ddl.caller": caller,
                **{f"ddl.{name}": count for name, count in (tokens or {}).items()},
            }
            trace_id = (
                self._spans.record(
                    f"{known} {route}",
                    start=end - seconds,
                    end=end,
                    parent=parent,
                    attributes=attributes,
                    steps_ms=steps_ms or {},
                    failed=status >= 500,
                )
                or trace_id
            )
        level = logging.DEBUG if quiet else logging.INFO
        if status < self._least_logged or not _logger.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            "method": method[:16],
            "path": path[:_LONGEST_PATH],
            "status": status,
            "ms": seconds * 1000,
            "client": client,
            "caller": caller,
            "request_id": request_id,
            **(tokens or {}),
        }
        if trace_id is not None:
            fields["trace_id"] = trace_id
        # Not `_logger.log`, which walks the stack to find where the line is: that costs more than all the rest here.
        record = logging.LogRecord(_logger.name, level, __file__, 0, "request", None, None)
        record.__dict__["fields"] = fields
        _logger.handle(record)
