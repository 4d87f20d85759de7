"""The same application behind two ports: one with the short way, one without."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.api.state import State
from service.app import create_app
from service.connection import Connection, ConnectionLimits, bounded
from service.lane.connection import with_lane
from service.lane.exchange import Exchange, Lane
from service.settings import Settings

LIMITS = ConnectionLimits(header_bytes=32768, connections=100, client_seconds=30.0)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Ports:
    """Both servers, on one event loop; requests are bytes, so that nothing is tidied up on the way."""

    def __init__(self, repository: Path, **settings: Any) -> None:
        self.app = create_app(Settings(repository=repository, **settings))
        self.state: State = self.app.state.service
        self.loop = asyncio.Runner()
        self.short: list[Exchange] = []
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run(self._start())

    async def _start(self) -> None:
        await self._lifespan.__aenter__()
        self.server_state = ServerState()
        self.server_state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
        config = uvicorn.Config(self.app, lifespan="off", log_config=None, access_log=False)
        config.load()
        lane = Lane(self.state)
        seen = self.short

        class Counted(with_lane(lane)):  # type: ignore[misc]
            def _take_head(self) -> None:
                super()._take_head()
                if self.cycle is self._exchange:
                    seen.append(self._exchange)

        self._servers = []
        for protocol in (Counted, Connection):
            made = bounded(protocol, LIMITS)
            server = await asyncio.get_running_loop().create_server(
                lambda made=made: made(config=config, server_state=self.server_state, app_state={}), "127.0.0.1", 0
            )
            self._servers.append(server)
        self.short_port, self.long_port = (server.sockets[0].getsockname()[1] for server in self._servers)

    def close(self) -> None:
        async def leave() -> None:
            for server in self._servers:
                server.close()
            for connection in list(self.server_state.connections):
                connection.transport.close()
            await asyncio.sleep(0.01)
            await self._lifespan.__aexit__(None, None, None)

        self.loop.run(leave())
        self.loop.close()

    async def ask(self, port: int, request: bytes) -> Answer:
        """Send one request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await read_answer(reader)
        finally:
            writer.close()
            await writer.wait_closed()

    def both(self, request: bytes) -> tuple[Answer, Answer]:
        """Return the answers of the short and of the long way."""

        async def ask() -> tuple[Answer, Answer]:
            return await self.ask(self.short_port, request), await self.ask(self.long_port, request)

        return self.loop.run(ask())


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer, whole."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(headers) == len(lines), f"a header comes twice: {lines}"
        body = await reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers, body)


@pytest.fixture(scope="module")
def ports(repository: Path) -> Iterator[Ports]:
    """Return the application behind both ports, with its default settings."""
    ports = Ports(repository)
    yield ports
    ports.close()
