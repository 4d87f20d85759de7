import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from starlette.requests import Request

from service.api import sse
from service.api.sse import DONE, PING, EventStream, frame, open_stream
from service.errors import CallerGone, ModelFailed, Overloaded, ServiceError
from tests.service.conftest import until


class Peer:
    """A client that reads as fast as `reads` lets it, and hangs up when it is told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.hung_up = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def request(self) -> Request:
        return Request({"type": "http", "path": "/", "headers": []}, self.receive)


class Source:
    """Frames that come when they are asked for; it tells whether it was closed."""

    def __init__(self, *pieces: bytes | Exception | float) -> None:
        self.pieces = pieces
        self.is_closed = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, bytes):
                    await asyncio.sleep(0)
                    yield piece
                else:
                    await asyncio.sleep(piece)
        finally:
            self.is_closed = True


def error_frame(error: ServiceError) -> bytes:
    return frame({"error": str(error)}) + DONE


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(bounded())


def test_frames_are_sent_in_order_and_the_end_is_told() -> None:
    async def test() -> None:
        peer, source = Peer(), Source(b"a", b"b", 0.001, b"c")
        await EventStream(source.frames(), error_frame)({}, peer.receive, peer.send)
        assert peer.body == b"abc"
        assert [message.get("more_body") for message in peer.sent][-1] is False
        headers = dict(peer.sent[0]["headers"])
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"x-accel-buffering"] == b"no"
        assert b"content-length" not in headers
        assert source.is_closed

    run(test)


def test_silence_is_filled_with_comments() -> None:
    async def test() -> None:
        peer, source = Peer(), Source(b"a", 0.1, b"b")
        stream = EventStream(source.frames(), error_frame)
        stream.ping_seconds = 0.02
        await stream({}, peer.receive, peer.send)
        assert peer.body.count(PING) >= 2
        assert peer.body.replace(PING, b"") == b"ab"

    run(test)


def test_who_hangs_up_closes_the_source() -> None:
    async def test() -> None:
        peer, source = Peer(), Source(b"a", 60.0)
        answering = asyncio.create_task(EventStream(source.frames(), error_frame)({}, peer.receive, peer.send))
        await asyncio.sleep(0.02)
        assert not source.is_closed
        peer.hung_up.set()
        await answering
        assert source.is_closed

    run(test)


def test_who_does_not_read_is_given_up_and_told_so_later() -> None:
    async def test() -> None:
        peer, source = Peer(), Source(*[b"x" * 100] * 50, 60.0)
        stream = EventStream(source.frames(), error_frame)
        stream.buffer_bytes = 1000
        peer.reads.clear()
        answering = asyncio.create_task(stream({}, peer.receive, peer.send))
        await until(lambda: source.is_closed)
        assert not answering.done()
        peer.reads.set()
        await answering
        assert peer.body.startswith(b"x" * 1000)
        assert b"read faster" in peer.body
        assert peer.body.endswith(DONE)

    run(test)


@pytest.mark.parametrize(("error", "words"), [(ModelFailed("no memory"), b"no memory"), (KeyError("inner"), b"log")])
def test_an_error_behind_the_head_is_the_last_event(
    error: Exception, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        peer = Peer()
        with caplog.at_level(logging.ERROR):
            await EventStream(Source(b"a", error).frames(), error_frame)({}, peer.receive, peer.send)
        assert words in peer.body
        assert b"inner" not in peer.body
        assert peer.body.endswith(DONE)
        assert bool(caplog.records) == isinstance(error, KeyError)

    run(test)


def test_an_error_before_the_first_frame_is_raised() -> None:
    async def test() -> None:
        source = Source(0.001, Overloaded("too many"))
        with pytest.raises(Overloaded):
            await open_stream(Peer().request(), source.frames(), error_frame)
        assert source.is_closed

    run(test)


def test_who_hangs_up_before_the_first_frame_closes_the_source() -> None:
    async def test() -> None:
        peer, source = Peer(), Source(60.0, b"a")
        opening = asyncio.create_task(open_stream(peer.request(), source.frames(), error_frame))
        await asyncio.sleep(0.01)
        peer.hung_up.set()
        with pytest.raises(CallerGone):
            await opening
        assert source.is_closed

    run(test)


def test_the_head_goes_out_when_the_first_frame_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_LONGEST_SILENCE_SECONDS", 0.01)

    async def test() -> None:
        peer, source = Peer(), Source(0.05, b"a", b"b")
        stream = await open_stream(peer.request(), source.frames(), error_frame)
        assert not source.is_closed
        await stream({}, peer.receive, peer.send)
        assert peer.body == b"ab"
        assert source.is_closed

    run(test)
