"""Many callers at once, callers who hang up, and an end in the middle of it, with a model that takes its time."""

import asyncio
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.service.lane.conftest import Answer, read_answer
from tests.service.lane.test_same_answers import PATH, http, question
from tests.service.slow_bundle import write_slow
from tests.service.test_server import Server

BODY = json.dumps(question(random.Random(1)) | {"outputs": [{"name": "probabilities"}]}).encode()
WAYS = [
    pytest.param((), id="short way"),
    pytest.param(("Content-Type: application/json; charset=utf-8",), id="ASGI"),
]
"""Headers by which a request takes one way or the other."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a model of some 50 ms a run, four rows at most."""
    root = tmp_path_factory.mktemp("slow")
    write_slow(root, side=900, config="[batching]\nmax_rows = 4\n")
    return root


@pytest.fixture
def start(slow: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(*flags: str) -> Server:
        servers.append(Server(slow, "--threads", "1", *flags))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.finish(kill=True)
        for connection in server.connections:
            connection.close()
        for pipe in (server.process.stdout, server.process.stderr):
            assert pipe is not None
            pipe.close()


async def ask(server: Server, *headers: str, body: bytes = BODY) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(http(PATH, body, *headers))
        return await read_answer(reader)
    finally:
        writer.close()


async def metric(server: Server, name: str, **labels: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(http("/metrics", b"", "Accept: text/plain", method="GET"))
    text = (await read_answer(reader)).body.decode()
    writer.close()
    wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^{name}{{[^}}]*{wanted}[^}}]*}} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("headers", WAYS)
def test_sigterm_with_24_in_flight_answers_all_24(start: Callable[..., Server], headers: tuple[str, ...]) -> None:
    server = start("--drain-delay-seconds", "0")

    async def scenario() -> list[Answer]:
        asked = [asyncio.create_task(ask(server, *headers)) for _ in range(24)]

        async def all_came() -> bool:
            return await metric(server, "ddl_model_waiting", model="tiny") >= 18

        await until(all_came)
        server.process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*asked)

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers] == [200] * 24
    status, _ = server.finish()
    assert status == 0


@pytest.mark.parametrize("headers", WAYS)
def test_callers_who_hung_up_cost_the_next_one_no_more_than_one_batch(
    start: Callable[..., Server], headers: tuple[str, ...]
) -> None:
    server = start()

    async def scenario() -> None:
        clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(96)]
        for _, writer in clients:
            writer.write(http(PATH, BODY, *headers))

        async def all_came() -> bool:
            return await metric(server, "ddl_model_waiting", model="tiny") >= 80

        await until(all_came)
        runs = await metric(server, "ddl_model_batch_rows_count", model="tiny")
        for _, writer in clients:
            writer.close()
        assert (await ask(server, *headers)).status == 200
        runs = await metric(server, "ddl_model_batch_rows_count", model="tiny") - runs
        assert runs <= 4, "vanished callers were computed"  # 20 batches waited
        assert await metric(server, "ddl_model_requests_total", model="tiny", outcome="cancelled") >= 70

    asyncio.run(scenario())


@pytest.mark.parametrize("headers", WAYS)
def test_300_at_once_are_answered_or_shed(start: Callable[..., Server], headers: tuple[str, ...]) -> None:
    server = start("--queue-limit", "40")

    async def scenario() -> list[Answer]:
        return await asyncio.gather(*[ask(server, *headers) for _ in range(300)])

    answers = asyncio.run(scenario())
    counted = Counter(answer.status for answer in answers)
    assert set(counted) <= {200, 503}
    assert counted[200] >= 40
    for answer in answers:
        if answer.status == 503:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert json.loads(answer.body)["type"] == "urn:ddl:problem:overloaded"


@pytest.mark.parametrize("headers", WAYS)
def test_what_is_late_is_told_in_time_and_not_computed(start: Callable[..., Server], headers: tuple[str, ...]) -> None:
    server = start("--queue-limit", "400")
    hurried = json.dumps(json.loads(BODY) | {"parameters": {"timeout": 300_000}}).encode()

    async def scenario() -> list[tuple[int, float]]:
        async def timed() -> tuple[int, float]:
            begin = time.perf_counter()
            answer = await ask(server, *headers, body=hurried)
            return answer.status, time.perf_counter() - begin

        return await asyncio.gather(*[timed() for _ in range(120)])

    answers = asyncio.run(scenario())
    counted = Counter(status for status, _ in answers)
    assert set(counted) == {200, 504}
    assert max(seconds for _, seconds in answers) < 2.0, "120 requests would take longer"
