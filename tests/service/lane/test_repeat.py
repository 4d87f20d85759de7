"""A head that comes again is not parsed again; nobody can tell from the answers."""

import asyncio
import json
import random
from collections.abc import Callable

import pytest

from service.lane.exchange import Exchange
from service.lane.repeat import Repeat
from service.lane.target import Target
from tests.service.lane.conftest import Answer, Ports, read_answer
from tests.service.lane.test_same_answers import PATH, http, question


def body_of(seed: int) -> bytes:
    return json.dumps(question(random.Random(seed))).encode()


def padded(body: bytes, length: int) -> bytes:
    return body + b" " * (length - len(body))


async def talk(port: int, chunks: list[bytes], answers: int = 0) -> list[Answer]:
    """Send chunks one by one on one connection and read that many answers at the end, or one after each chunk."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    read = []
    try:
        for chunk in chunks:
            writer.write(chunk)
            if answers:
                await asyncio.sleep(0.004)  # each is to arrive alone
            else:
                read.append(await read_answer(reader))
        return read + [await read_answer(reader) for _ in range(answers)]
    finally:
        writer.close()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """Return the exchanges that run."""
    seen: list[Exchange] = []
    run = Exchange.run

    def noted(self: Exchange) -> None:
        seen.append(self)
        run(self)

    monkeypatch.setattr(Exchange, "run", noted)
    return seen


def parsed(ports: Ports) -> int:
    return len(ports.short)


def test_the_same_head_is_parsed_once(ports: Ports, runs: list[Exchange]) -> None:
    requests = [http(PATH, padded(body_of(seed), 9990 + 5 * seed)) for seed in range(5)]
    before = parsed(ports)
    short = ports.loop.run(talk(ports.short_port, requests))
    assert (parsed(ports) - before, len(runs)) == (1, 5)
    assert [one.body for one in short] == [one.body for one in ports.loop.run(talk(ports.long_port, requests))]
    assert len({one.headers["x-request-id"] for one in short}) == 5


def test_half_a_head_is_not_taken_for_one(ports: Ports) -> None:
    """What came as the second half of a request is no request when it comes alone."""
    request = http(PATH, padded(body_of(1), 12000))
    cut = request.index(b"HTTP/1.1")

    chunks = [request[:cut], request[cut:], request[cut:]]
    first, second = ports.loop.run(talk(ports.short_port, chunks, 2))
    assert (first.status, second.status) == (200, 400)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\na: b\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\na: b\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nContent-Length: +4\r\na: b\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: \r\na: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\na: c\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: 65537\r\na: b\r\n\r\n" + b"a" * 65537,
        b"POST / HTTP/1.1\r\nContent-Length: 000004\r\na: b\r\n\r\nabcd",
    ],
)
def test_other_requests_are_for_the_parser(data: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\na: b\r\n\r\n"
    headers = {b"content-length": b"2", b"a": b"b"}
    repeat = Repeat.of(head % 2 + b"xy", Target("a", None, "", "/"), headers)
    assert repeat is not None
    assert repeat.headers == {b"a": b"b"}
    assert repeat.body(head % 65536 + b"a" * 65536) == b"a" * 65536
    assert repeat.body(head % 0) == b""
    assert repeat.body(data) is None
    assert Repeat.of(b"\r\n" + head % 2 + b"xyz", repeat.target, headers) is None


@pytest.mark.parametrize("seed", range(12))
def test_any_chunks_get_the_answers_of_the_parser(ports: Ports, seed: int) -> None:
    """Requests with the same and with other heads, pipelined, cut anywhere, with blank lines between."""
    draw = random.Random(seed)
    kinds: list[Callable[[int], bytes]] = [
        lambda n: http(PATH, padded(body_of(n), 9990 + n)),
        lambda n: http(PATH, padded(body_of(n), 12000), "X-Request-ID: again"),
        lambda n: http(PATH, padded(b'{"inputs": []}', 12000)),
        lambda n: http(PATH, padded(b"\r\n\r\n", 12000)),
        lambda n: b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n",
        lambda n: b"\r\n" + http(PATH, padded(body_of(n), 12000)),
    ]
    requests, kind = [], kinds[0]
    for number in range(12):
        kind = draw.choice([kind, kind, *kinds])
        requests.append(kind(number))
    chunks = [b"", requests[0][:9], requests[0][9:]]
    for request in requests[1:]:
        where = draw.choice(["alone", "alone", "alone", "joined", "cut"])
        if where == "joined":
            chunks[-1] += request
        elif where == "cut":
            at = draw.randrange(1, len(request))
            chunks += [request[:at], request[at:]]
        else:
            chunks.append(request)
    chunks = [chunk for chunk in chunks if chunk]
    short = ports.loop.run(talk(ports.short_port, chunks, len(requests)))
    long = ports.loop.run(talk(ports.long_port, chunks, len(requests)))
    for one, other in zip(short, long, strict=True):
        assert one.status == other.status
        if one.status == 200:
            assert one.body == other.body
