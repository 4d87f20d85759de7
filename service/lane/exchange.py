"""One inference on the short way: admitted, decoded, queued, answered and booked, by the same parts as everywhere."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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


class Signal:
    """Stands where uvicorn wakes up a task that waits for the request; here nobody waits."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = Signal()


class Exchange:
    """A request from the end of its head to its answer's last byte.

    The attributes without `_` are those that uvicorn's connection looks at or sets in its own cycles.
    """

    __slots__ = (
        "_booked",
        "_caller",
        "_connection",
        "_id",
        "_job",
        "_lane",
        "_queue",
        "_start",
        "_task",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
        "target",
    )

    def __init__(
        self,
        lane: Lane,
        connection: HttpToolsProtocol,
        target: Target,
        headers: Mapping[bytes, bytes],
        *,
        keep_alive: bool,
    ) -> None:
        """Begin when the head has come; `headers` are those of the request, the first of each name."""
        self._start = perf_counter()
        self._lane = lane
        self._connection = connection
        self.target = target
        self.headers = headers
        self._id = request_id(headers.get(REQUEST_ID))
        self._caller: Caller = NOBODY
        self._job: Job | None = None
        self._queue: Batcher | None = None
        self._task: asyncio.Future[None] | None = None
        self._booked = False
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = True
        self.message_event = _NOBODY_WAITS
        self.disconnected = self.response_started = self.response_complete = False
        lane.state.metrics.http.in_flight.inc()

    def run(self) -> None:
        """Queue the request, whose body has come."""
        state, target = self._lane.state, self.target
        try:
            self._caller = state.guard.admit(self.headers.get, "infer", self._address)
            model = state.repository.get(target.name, target.version)
            length = read_header_length(self.headers.get(b"inference-header-content-length"))
            call = decode(self.body, length, model.view, self._lane.limits)
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
            self._connection.server_state.default_headers,
            answer.content_type,
            sum(map(len, parts)),
            answer.header_length,
            self._id,
            keep_alive=self.keep_alive,
        )
        self._send(200, b"".join((head, *parts)))

    def _fail(self, error: Exception) -> None:
        """Answer an error as it is answered on every other way."""
        if isinstance(error, CallerGone) or self._is_gone():
            self._book(CLIENT_CLOSED)
            return
        request = self._request()
        if isinstance(error, ServiceError):
            answer = service_problem(request, error)
        else:
            _errors.error("request failed", exc_info=error, extra={"fields": {"request_id": self._id}})
            answer = problem(request, INTERNAL, "see the service's log for this request_id", {}, {})
        head = other(
            self._connection.server_state.default_headers,
            STATUS_LINE[answer.status_code],
            [*answer.raw_headers, (REQUEST_ID, self._id.encode())],
            tls=self._lane.tls,
            keep_alive=self.keep_alive,
        )
        self._send(answer.status_code, head + bytes(answer.body))

    def _request(self) -> Request:
        """Return the request as those see it who answer errors."""
        scope = {
            "type": "http",
            "method": "POST",
            "scheme": self._connection.scheme,
            "server": self._connection.server,
            "root_path": "",
            "path": self.target.path,
            "query_string": b"",
            "headers": list(self.headers.items()),
            "state": {"request_id": self._id},
        }
        return Request(scope)

    def _send(self, status: int, answer: bytes) -> None:
        if self._is_gone():
            self._book(CLIENT_CLOSED)
            return
        transport = self._connection.transport
        transport.write(answer)
        self.response_started = self.response_complete = True
        self.body = b""  # the connection may stay idle for long
        self._book(status)
        if not self.keep_alive:
            transport.close()
        self._connection.on_response_complete()

    def _book(self, status: int) -> None:
        if self._booked:
            return
        self._booked = True
        state, headers = self._lane.state, self.headers
        state.metrics.http.in_flight.dec()
        state.access.book(
            method="POST",
            route=self.target.route,
            path=self.target.path,
            status=status,
            seconds=perf_counter() - self._start,
            request_id=self._id,
            client=state.guard.client(headers.get, self._address) if self._address else "-",
            caller=self._caller.name,
            parent=trace_parent(headers.get(TRACEPARENT)),
        )

    def _is_gone(self) -> bool:
        return self.disconnected or self._connection.transport.is_closing()

    @property
    def _address(self) -> str:
        client = self._connection.client
        return client[0] if client else ""
