"""One inference on the short way: admitted, decoded, queued, answered and booked, by the same parts as everywhere."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.api.problems import INTERNAL, problem, service_problem
from service.api.state import State
from service.engine.batcher import Batcher
from service.engine.job import Job, Outcome
from service.errors import CallerGone, ServiceError
from service.lane.head import Heads, other
from service.lane.target import Target
from service.protocol.call import Encoded, InferCall, Limits
from service.protocol.decode import decode, read_header_length
from service.protocol.encode import encode
from service.protocol.view import ModelView
from service.security.caller import NOBODY, Caller
from service.telemetry.access import CLIENT_CLOSED
from service.telemetry.ids import REQUEST_ID, TRACEPARENT, request_id, trace_parent

_errors = logging.getLogger("service.errors")
_INLINE_CELLS = 4096
"""JSON of more numbers is not written on the event loop."""


class Lane:
    """What the exchanges of one service share."""

    def __init__(self, state: State) -> None:
        """Serve what `state` holds."""
        self.state = state
        self.tls = state.settings.tls_certificate is not None
        self.heads = Heads(tls=self.tls)
        self.limits = Limits(state.settings.max_rows, state.settings.json_cells)


class Exchange:
    """A request from the end of its head to its answer's last byte."""

    __slots__ = (
        "_booked",
        "_caller",
        "_cycle",
        "_headers",
        "_id",
        "_job",
        "_lane",
        "_queue",
        "_start",
        "_target",
        "_task",
    )

    def __init__(self, lane: Lane, cycle: RequestResponseCycle, target: Target, headers: dict[bytes, bytes]) -> None:
        """Begin when the head has come; `headers` are those of the request, the first of each name."""
        self._start = perf_counter()
        self._lane = lane
        self._cycle = cycle
        self._target = target
        self._headers = headers
        self._id = request_id(headers.get(REQUEST_ID))
        self._caller: Caller = NOBODY
        self._job: Job | None = None
        self._queue: Batcher | None = None
        self._task: asyncio.Future[None] | None = None
        self._booked = False
        lane.state.metrics.http.in_flight.inc()

    def belongs_to(self, cycle: RequestResponseCycle) -> bool:
        """Say whether this is the exchange of a request."""
        return self._cycle is cycle

    def run(self) -> None:
        """Queue the request; its body is in the cycle."""
        state, target = self._lane.state, self._target
        try:
            self._caller = state.guard.admit(self._headers.get, "infer", self._address)
            model = state.repository.get(target.name, target.version)
            length = read_header_length(self._headers.get(b"inference-header-content-length"))
            call = decode(self._cycle.body, length, model.view, self._lane.limits)
            deadline = None if call.timeout_seconds is None else self._start + call.timeout_seconds
            finish = partial(self._finish, model.view, call)
            self._job = Job(call.feeds, call.names, call.rows, finish, self._is_gone, call.priority, deadline)
            self._queue = model.batcher
            model.batcher.submit(self._job)
        except Exception as error:
            self._fail(error)

    def abandon(self) -> None:
        """Give up: the client has hung up."""
        if self._queue is not None and self._job is not None:
            self._queue.forget(self._job)  # ends in `_finish`, which a run under way does too
        elif self._task is None:
            self._book(CLIENT_CLOSED)

    def _finish(self, view: ModelView, call: InferCall, outcome: Outcome) -> None:
        self._queue = self._job = None
        if isinstance(outcome, ServiceError):
            self._fail(outcome)
            return
        limits = self._lane.limits
        if sum([outcome[wish.name].size for wish in call.outputs if not wish.binary]) > _INLINE_CELLS:
            self._task = asyncio.ensure_future(self._finish_later(lambda: encode(view, call, outcome, limits)))
            return
        try:
            answer = encode(view, call, outcome, limits)
        except Exception as error:
            self._fail(error)
        else:
            self._succeed(answer)

    async def _finish_later(self, write: Callable[[], Encoded]) -> None:
        """Write a long answer in a worker thread: the others need the event loop."""
        try:
            self._succeed(await self._lane.state.runner.run(write))
        except Exception as error:
            self._fail(error)

    def _succeed(self, answer: Encoded) -> None:
        parts = answer.parts
        head = self._lane.heads.ok(
            self._cycle.default_headers,
            answer.content_type,
            sum(map(len, parts)),
            answer.header_length,
            self._id,
            keep_alive=self._cycle.keep_alive,
        )
        self._send(200, b"".join((head, *parts)))

    def _fail(self, error: Exception) -> None:
        """Answer an error as it is answered on every other way."""
        if isinstance(error, CallerGone) or self._is_gone():
            self._book(CLIENT_CLOSED)
            return
        scope: Any = self._cycle.scope
        scope["state"]["request_id"] = self._id
        request = Request(scope)
        if isinstance(error, ServiceError):
            answer = service_problem(request, error)
        else:
            _errors.error("request failed", exc_info=error, extra={"fields": {"request_id": self._id}})
            answer = problem(request, INTERNAL, "see the service's log for this request_id", {}, {})
        cycle = self._cycle
        head = other(
            cycle.default_headers,
            STATUS_LINE[answer.status_code],
            [*answer.raw_headers, (REQUEST_ID, self._id.encode())],
            tls=self._lane.tls,
            keep_alive=cycle.keep_alive,
        )
        self._send(answer.status_code, head + bytes(answer.body))

    def _send(self, status: int, answer: bytes) -> None:
        cycle = self._cycle
        if self._is_gone():
            self._book(CLIENT_CLOSED)
            return
        cycle.transport.write(answer)
        cycle.response_started = cycle.response_complete = True
        cycle.body = bytearray()  # the connection may stay idle for long
        self._book(status)
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def _book(self, status: int) -> None:
        if self._booked:
            return
        self._booked = True
        state, headers = self._lane.state, self._headers
        state.metrics.http.in_flight.dec()
        state.access.book(
            method="POST",
            route=self._target.route,
            path=self._cycle.scope["path"],
            status=status,
            seconds=perf_counter() - self._start,
            request_id=self._id,
            client=state.guard.client(headers.get, self._address) if self._address else "-",
            caller=self._caller.name,
            parent=trace_parent(headers.get(TRACEPARENT)),
        )

    def _is_gone(self) -> bool:
        return self._cycle.disconnected or self._cycle.transport.is_closing()

    @property
    def _address(self) -> str:
        client = self._cycle.scope["client"]
        return client[0] if client else ""
