"""Server-sent events: frames, and a response that neither waits for slow readers nor outlives its client."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.answers import encode
from service.errors import CallerGone, Overloaded, ServiceError

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

_LONGEST_SILENCE_SECONDS = 10.0

_logger = logging.getLogger(__name__)


def frame(value: object) -> bytes:
    """Return a value as one event without a name. JSON has no line breaks of its own, so it takes one line."""
    return b"data: " + encode(value) + b"\n\n"


class EventStream(Response):
    """Sends frames as they come.

    Frames that the client does not read wait in a buffer of `buffer_bytes`. Once that is full, the frames are given
    up and the stream ends with an error, for whoever goes on to read; the source has been closed by then, so nothing is
    computed for nobody. It is closed as well when the client hangs up. A comment goes out after each `ping_seconds` of
    silence, so that no proxy takes the connection for dead.
    """

    buffer_bytes = 256 * 1024
    ping_seconds = 15.0

    def __init__(self, frames: AsyncGenerator[bytes, None], error_frame: Callable[[ServiceError], bytes]) -> None:
        """Take the source, which is closed in any case, and how an error looks that comes after the status line."""
        super().__init__(
            media_type=MEDIA_TYPE, headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._frames = frames
        self._error_frame = error_frame
        self._buffer: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._has_ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client wants."""
        fill = asyncio.create_task(self._fill())
        watch = asyncio.create_task(_hung_up(receive))
        drain = asyncio.create_task(self._drain(send))
        try:
            await asyncio.wait([watch, drain], return_when=asyncio.FIRST_COMPLETED)
            if drain.done():
                drain.result()
        finally:
            for task in (fill, watch, drain):
                task.cancel()
            await asyncio.gather(fill, watch, drain, return_exceptions=True)

    async def _fill(self) -> None:
        try:
            async with contextlib.aclosing(self._frames) as frames:
                async for piece in frames:
                    if self._bytes + len(piece) > self.buffer_bytes:
                        raise Overloaded(
                            f"more than {self.buffer_bytes} bytes of the answer waited to be read; read faster"
                        )
                    self._put(piece)
        except ServiceError as error:
            self._put(self._error_frame(error))
        except Exception:
            _logger.exception("a stream failed")
            self._put(self._error_frame(ServiceError("the service failed; see its log for this request's id")))
        finally:
            self._has_ended = True
            self._news.set()

    def _put(self, piece: bytes) -> None:
        self._buffer.append(piece)
        self._bytes += len(piece)
        self._news.set()

    async def _drain(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while True:
            if not self._buffer and not self._has_ended:
                self._news.clear()
                try:
                    async with asyncio.timeout(self.ping_seconds):
                        await self._news.wait()
                except TimeoutError:
                    await send({"type": "http.response.body", "body": PING, "more_body": True})
                    continue
            # All that came since the last time goes in one piece.
            body, more = b"".join(self._buffer), not self._has_ended
            self._buffer.clear()
            await send({"type": "http.response.body", "body": body, "more_body": more})
            self._bytes -= len(body)
            if not more:
                return


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def open_stream(
    request: Request, frames: AsyncGenerator[bytes, None], error_frame: Callable[[ServiceError], bytes]
) -> EventStream:
    """Return the response to a stream once its first frame is there, so that an error before it has its status.

    The head goes out without a frame after some seconds, lest a proxy or client lose its patience. The request's body
    must have been read.

    Raises:
        ServiceError: the source failed before its first frame.
        CallerGone: the client hung up.
    """
    first, watch = asyncio.ensure_future(anext(frames)), asyncio.ensure_future(_hung_up(request.receive))
    try:
        await asyncio.wait([first, watch], timeout=_LONGEST_SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if watch.done() and not first.done():
            raise CallerGone("the caller hung up before its answer began")
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await frames.aclose()
        raise
    finally:
        watch.cancel()
    return EventStream(_with_first(first, frames), error_frame)


async def _with_first(
    first: "asyncio.Future[bytes]", frames: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    try:
        yield await first
        async for piece in frames:
            yield piece
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await frames.aclose()
