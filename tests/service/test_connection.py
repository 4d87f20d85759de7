"""Clients that are too many, too large or too slow, against a small application on a real socket."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from service.api.problems import URN
from service.connection import KINDS, Connection, ConnectionLimits, bounded, sweep

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Service:
    """A server on a free port that echoes the size of each body."""

    def __init__(self, **limits: Any) -> None:
        self.refused: list[str] = []
        self.draining = False
        self.gate: asyncio.Event | None = None
        usual = {"header_bytes": 2048, "connections": 100, "client_seconds": 30.0}
        made = ConnectionLimits(**{**usual, **limits}, draining=lambda: self.draining, refused=self.refused.append)
        config = uvicorn.Config(
            self.app,
            interface="asgi3",
            http=bounded(Connection, made),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            port=0,
        )
        self.server = uvicorn.Server(config)
        self.answer = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answer or str(len(body)).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
        )
        await send({"type": "http.response.body", "body": answer})

    def sweep(self, later: float) -> None:
        """Look after the connections as if it were `later` seconds later."""
        for connection in list(self.server.server_state.connections):
            assert isinstance(connection, Connection)
            connection.sweep(connection.loop.time() + later)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(writer)
        return reader, writer


@asynccontextmanager
async def running(**limits: Any) -> Any:
    service = Service(**limits)
    with service.server.capture_signals():
        task = asyncio.create_task(service.server._serve())
        while not service.server.started:  # noqa: ASYNC110 - uvicorn has no event for this
            await asyncio.sleep(0.005)
        try:
            yield service
        finally:
            service.server.should_exit = True
            service.server.force_exit = True
            await task
            for writer in service.writers:
                writer.transport.abort()
            await asyncio.sleep(0.01)


def check(test: Callable[[Service], Awaitable[None]], **limits: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(20), running(**limits) as service:
            await test(service)

    asyncio.run(run())


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value for name, value in headers.items()}


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status, headers = await head(reader)
    return status, await reader.readexactly(int(headers["content-length"]))


async def refusal(reader: asyncio.StreamReader, status: int, slug: str) -> dict[str, str]:
    """Read a refusal: a problem with security headers, and then the end of the connection."""
    found, headers = await head(reader)
    body = json.loads(await reader.read())
    assert (found, body["status"], body["type"]) == (status, status, URN + slug)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    return headers


def test_usual_requests_pass_one_after_the_other() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        for size in (0, 5, 100_000):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
            assert await answer(reader) == (200, str(size).encode())
        writer.write(GET + GET + GET)  # pipelined
        assert [await answer(reader) for _ in range(3)] == [(200, b"0")] * 3
        writer.close()
        assert service.refused == []

    check(test)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 3000,  # a value that does not end
        b"GET /" + b"y" * 3000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 600,
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 3000 + b"\r\n\r\n" + GET,
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\nx: " + b"y" * 3000 + b"\r\n\r\nabcde",
    ],
)
def test_a_large_head_is_refused_also_before_it_ends(request_head: bytes) -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(request_head)
        await refusal(reader, 431, "large-head")
        writer.close()
        assert service.refused == ["large-head"]

    check(test)


def test_a_head_that_comes_byte_by_byte_is_counted_as_a_whole() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(GET[:-2])
        for _ in range(80):
            writer.write(b"x-more: " + b"y" * 40 + b"\r\n")
            await asyncio.sleep(0.001)
            if service.refused:
                break
        await refusal(reader, 431, "large-head")
        writer.close()

    check(test)


def test_a_large_body_does_not_count_as_head() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n" + b"z" * 9000)
            assert await answer(reader) == (200, b"9000")
        writer.close()

    check(test)


@pytest.mark.parametrize("rubbish", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\nhost x\r\n\r\n", b"{}\r\n\r\n"])
def test_what_is_not_http_is_refused(rubbish: bytes) -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(rubbish)
        await refusal(reader, 400, "malformed")
        writer.close()

    check(test)


def test_what_fails_here_is_not_the_clients_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(self: Connection, body: bytes) -> None:
        raise MemoryError

    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        await refusal(reader, 500, "internal")
        writer.close()
        assert service.refused == ["internal"]

    monkeypatch.setattr(Connection, "on_body", no_memory)
    check(test)
    assert "MemoryError" in caplog.text


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc"])
def test_a_request_that_does_not_come_whole_is_given_up(sent: bytes) -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(sent)
        await asyncio.sleep(0.05)
        service.sweep(29.0)
        assert not reader.at_eof()
        service.sweep(31.0)
        await refusal(reader, 408, "slow-request")
        writer.close()

    check(test)


def test_an_answer_that_takes_long_is_no_slow_request() -> None:
    async def test(service: Service) -> None:
        service.gate = asyncio.Event()
        reader, writer = await service.connect()
        writer.write(GET)
        writer.write(GET)  # waits behind the first
        await asyncio.sleep(0.05)
        service.sweep(1000.0)
        service.gate.set()
        assert [await answer(reader) for _ in range(2)] == [(200, b"0")] * 2
        writer.close()
        assert service.refused == []

    check(test)


def test_a_reader_that_takes_nothing_is_given_up() -> None:
    async def test(service: Service) -> None:
        service.answer = b"x" * 20_000_000
        reader, writer = await service.connect()
        writer.write(GET)
        await reader.readexactly(1)
        await asyncio.sleep(0.1)
        service.sweep(0.0)
        service.sweep(29.0)
        assert service.refused == []
        service.sweep(31.0)
        assert service.refused == ["slow-reader"]
        writer.close()

    check(test)


def test_a_reader_that_takes_a_little_is_waited_for() -> None:
    async def test(service: Service) -> None:
        service.answer = b"x" * 20_000_000
        reader, writer = await service.connect()
        writer.write(GET)
        await head(reader)
        for step in range(1, 4):
            await reader.readexactly(5_000_000)
            await asyncio.sleep(0.05)
            service.sweep(step * 25.0)
        await reader.readexactly(5_000_000)
        assert service.refused == []
        writer.close()

    check(test)


def test_an_idle_connection_is_closed_and_one_that_is_used_stays() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        for _ in range(2):
            writer.write(GET)
            assert await answer(reader) == (200, b"0")
            service.sweep(4.0)  # uvicorn keeps an idle connection for 5 seconds
        service.gate = asyncio.Event()
        writer.write(GET)
        await asyncio.sleep(0.05)
        service.sweep(6.0)  # it waits for its answer
        service.gate.set()
        assert await answer(reader) == (200, b"0")
        await asyncio.sleep(0)
        service.sweep(6.0)
        assert await reader.read() == b""
        assert service.refused == []
        writer.close()

    check(test)


def test_connections_beyond_the_limit_are_told_and_the_others_served() -> None:
    async def test(service: Service) -> None:
        first = [await service.connect() for _ in range(3)]
        for reader, writer in first:
            writer.write(GET)
            assert await answer(reader) == (200, b"0")
        reader, writer = await service.connect()
        headers = await refusal(reader, 503, "too-many-connections")
        assert headers["retry-after"] == "1"
        writer.close()
        first[0][1].close()
        await asyncio.sleep(0.05)
        again, writer_again = await service.connect()
        writer_again.write(GET)
        assert await answer(again) == (200, b"0")
        for _, writer in [*first[1:], (again, writer_again)]:
            writer.close()

    check(test, connections=3)


def test_while_draining_an_answer_ends_its_connection() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(GET)
        assert await answer(reader) == (200, b"0")
        service.draining = True
        writer.write(GET)
        status, headers = await head(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b"0"
        writer.close()

    check(test)


def test_a_request_whose_head_is_coming_when_the_port_closes_is_answered() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        idle_reader, idle_writer = await service.connect()
        writer.write(GET[:10])
        await asyncio.sleep(0.05)
        service.draining = True
        for connection in list(service.server.server_state.connections):
            connection.shutdown()  # type: ignore[union-attr]
        assert await idle_reader.read() == b""
        idle_writer.close()
        writer.write(GET[10:])
        assert await answer(reader) == (200, b"0")
        assert await reader.read() == b""
        writer.close()

    check(test)


def test_the_sweep_looks_at_every_open_connection() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.connect()
        await asyncio.sleep(0.05)
        sweep(service.server.server_state.connections)
        assert await refusal(reader, 408, "slow-request")
        sweep(service.server.server_state.connections)
        writer.close()

    check(test, client_seconds=0.01)


def test_refusals_have_names_of_their_own() -> None:
    assert len({kind.slug for kind in KINDS}) == len(KINDS)
