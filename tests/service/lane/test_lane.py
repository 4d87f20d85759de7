import asyncio
import json
import random
import threading
from typing import Any

import numpy as np
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.connection import Connection
from service.errors import ModelFailed
from service.lane.connection import with_lane
from service.lane.exchange import Lane
from service.lane.target import Target, is_plain, read_target
from tests.service.conftest import until
from tests.service.lane.conftest import Answer, Ports, read_answer
from tests.service.lane.test_same_answers import PATH, http, question

MODEL, VERSION = "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"/v2/models/a/infer", Target("a", None, MODEL, "/v2/models/a/infer")),
        (b"/v2/models/a.b-c/versions/12/infer", Target("a.b-c", "12", VERSION, "/v2/models/a.b-c/versions/12/infer")),
        (b"/v2/models/a/versions/infer", None),
        (b"/v2/models/a/versions//infer", None),
        (b"/v2/models/a/other/1/infer", None),
        (b"/v2/models//infer", None),
        (b"/v2/models/infer", None),
        (b"/v2/models/a/b/infer", None),
        (b"/v2/models/%61/infer", None),
        (b"/v2/models/a/infer?b=c", None),
        (b"/v2/models/a/infer#b", None),
        (b"/v2/models/a/ready", None),
        (b"/v1/models/a/infer", None),
        (b"http://host/v2/models/a/infer", None),
        (b"*", None),
    ],
)
def test_targets(path: bytes, target: Target | None) -> None:
    assert read_target(path) == target


@pytest.mark.parametrize(
    ("headers", "plain"),
    [
        ({b"content-length": b"10"}, True),
        ({b"content-length": b"65536", b"content-type": b"application/json"}, True),
        ({b"content-length": b"1", b"content-type": b"application/octet-stream"}, True),
        ({b"content-length": b"65537"}, False),
        ({b"content-length": b"9" * 5000}, False),
        ({b"content-length": b"-1"}, False),
        ({b"content-length": b""}, False),
        ({}, False),
        ({b"content-length": b"1", b"content-type": b"text/plain"}, False),
        *(
            ({b"content-length": b"1", name: b"x"}, False)
            for name in (b"content-encoding", b"expect", b"transfer-encoding", b"upgrade", b"origin")
        ),
    ],
)
def test_plain_requests(headers: dict[bytes, bytes], plain: bool) -> None:
    assert is_plain(headers) is plain


def body_of(seed: int, **members: Any) -> bytes:
    return json.dumps(question(random.Random(seed)) | members).encode()


async def connect(ports: Ports) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", ports.short_port)


class Held:
    """Keeps the model busy: its runs wait until they are let go."""

    def __init__(self, ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batcher = ports.state.repository.get("tiny").batcher
        self.rows: list[int] = []
        session = self.batcher._free[0]
        run = type(session).run
        self.open = threading.Event()

        def wait(own: Any, feeds: Any, outputs: Any, **options: Any) -> Any:
            self.rows.append(len(feeds["pixels"]))
            assert self.open.wait(20)
            return run(own, feeds, outputs, **options)

        monkeypatch.setattr(type(session), "run", wait)
        monkeypatch.setattr(self.batcher._costs, "predict", lambda elements: 1.0)


def test_requests_of_one_moment_share_a_run_and_get_their_own_answers(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [ports.both(http(PATH, body_of(seed)))[1] for seed in range(12)]

    async def scenario() -> list[Answer]:
        held = Held(ports, monkeypatch)
        asked = [asyncio.create_task(ports.ask(ports.short_port, http(PATH, body_of(99))))]
        await until(lambda: held.rows)
        asked += [asyncio.create_task(ports.ask(ports.short_port, http(PATH, body_of(seed)))) for seed in range(12)]
        await until(lambda: held.batcher.waiting == 12)
        held.open.set()
        answers = await asyncio.gather(*asked)
        assert held.rows == [1, 12]
        return answers[1:]

    for one, other in zip(ports.loop.run(scenario()), alone, strict=True):
        got, want = (json.loads(answer.body)["outputs"] for answer in (one, other))
        for first, second in zip(got, want, strict=True):
            np.testing.assert_allclose(first["data"], second["data"], rtol=1e-5, atol=1e-6)


def test_a_client_who_hangs_up_costs_nothing_and_is_booked(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        held = Held(ports, monkeypatch)
        first = asyncio.create_task(ports.ask(ports.short_port, http(PATH, body_of(0))))
        await until(lambda: held.rows)
        cancelled = held.batcher.statistics.cancel.count
        clients = [await connect(ports) for _ in range(20)]
        for _, writer in clients:
            writer.write(http(PATH, body_of(1)))
        await until(lambda: held.batcher.waiting == 20)
        for _, writer in clients:
            writer.close()
        await until(lambda: held.batcher.waiting == 0)
        assert held.batcher.statistics.cancel.count == cancelled + 20
        held.open.set()
        assert (await first).status == 200
        assert held.rows == [1]
        assert counted(ports, 499) == gone + 20
        assert in_flight(ports) == 0

    gone = counted(ports, 499)
    ports.loop.run(scenario())


def test_a_client_who_hangs_up_inside_a_batch_harms_no_neighbour(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        held = Held(ports, monkeypatch)
        blocker = asyncio.create_task(ports.ask(ports.short_port, http(PATH, body_of(0))))
        await until(lambda: held.rows)
        _, writer = await connect(ports)
        writer.write(http(PATH, body_of(1)))
        neighbour = asyncio.create_task(ports.ask(ports.short_port, http(PATH, body_of(2))))
        await until(lambda: held.batcher.waiting == 2)
        held.open.clear()
        release = held.open
        held.open = threading.Event()
        release.set()
        await until(lambda: held.rows == [1, 2])
        writer.close()
        await writer.wait_closed()
        held.open.set()
        assert (await neighbour).status == 200
        assert (await blocker).status == 200
        assert in_flight(ports) == 0

    ports.loop.run(scenario())


def test_half_a_request_waits_for_the_rest_and_is_given_up_with_its_connection(ports: Ports) -> None:
    async def scenario() -> None:
        request = http(PATH, body_of(3))
        reader, writer = await connect(ports)
        for start in range(0, len(request), 97):
            writer.write(request[start : start + 97])
            await asyncio.sleep(0)
        assert (await read_answer(reader)).status == 200
        writer.write(request[:-10])
        await until(lambda: in_flight(ports) == 1)
        writer.close()
        await until(lambda: in_flight(ports) == 0)
        assert counted(ports, 499) == gone + 1

    gone = counted(ports, 499)
    ports.loop.run(scenario())


def test_a_connection_serves_one_request_after_the_other(ports: Ports) -> None:
    async def scenario() -> None:
        reader, writer = await connect(ports)
        for seed in range(5):
            writer.write(http(PATH, body_of(seed)) if seed != 2 else http("/v2", b"", method="GET"))
            answer = await read_answer(reader)
            assert answer.status == 200
            assert "connection" not in answer.headers
        writer.write(http(PATH, body_of(9), "Connection: close"))
        assert (await read_answer(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()

    ports.loop.run(scenario())


def test_pipelined_requests_are_answered_in_their_order(ports: Ports) -> None:
    async def scenario() -> None:
        reader, writer = await connect(ports)
        names = [f"n{i}" for i in range(7)]
        bodies = [body_of(i, id=name) for i, name in enumerate(names)]
        whole = b"".join(http(PATH, body) for body in bodies)
        writer.write(whole[: len(whole) - 50])
        await asyncio.sleep(0.05)
        writer.write(whole[len(whole) - 50 :])
        answers = [await read_answer(reader) for _ in names]
        assert [json.loads(answer.body)["id"] for answer in answers] == names
        writer.close()

    ports.loop.run(scenario())


def test_an_answer_of_many_numbers_is_written_elsewhere(ports: Ports) -> None:
    asked = question(random.Random(1), rows=60)
    asked["inputs"][0]["data"] = [round(number, 1) for number in asked["inputs"][0]["data"]]
    gates = [{"name": f"{site}/{q}"} for site in ("0.attn", "0.mlp") for q in ("v", "proj", "beta", "beta_logit")]
    body = json.dumps(asked | {"outputs": gates}, separators=(",", ":")).encode()
    before = len(ports.short)
    short, long = ports.both(http(PATH, body, "X-Request-ID: same"))
    assert len(ports.short) == before + 1
    assert short == long
    assert short.status == 200


def test_a_fault_of_ours_is_logged_and_told_without_its_reason(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.lane.exchange.decode", lambda *arguments: 1 // 0)
    answer = ports.loop.run(ports.ask(ports.short_port, http(PATH, body_of(1), "X-Request-ID: mine")))
    assert answer.status == 500
    assert b"ZeroDivision" not in answer.body
    assert json.loads(answer.body)["request_id"] == "mine"
    assert "ZeroDivisionError" in caplog.text


def test_a_model_that_fails_is_told(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ports.state.repository.get("tiny").batcher._free[0]

    def fail(*arguments: object, **options: object) -> None:
        raise ModelFailed("no")

    monkeypatch.setattr(type(session), "run", fail)
    short, long = ports.both(http(PATH, body_of(1), "X-Request-ID: same"))
    assert short == long
    assert short.status == 500


def test_both_ways_are_booked_alike(ports: Ports) -> None:
    before = counted(ports, 200), counted(ports, 404)
    ports.both(http(PATH, body_of(1)))
    ports.both(http("/v2/models/nix/infer", body_of(1)))
    assert (counted(ports, 200), counted(ports, 404)) == (before[0] + 2, before[1] + 2)


def test_an_unknown_uvicorn_has_no_short_way_and_says_so(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "_start_asgi_task")
    assert with_lane(Lane(ports.state)) is Connection
    assert "the long way" in caplog.text


def counted(ports: Ports, status: int) -> int:
    return ports.state.metrics.http.count(MODEL, "POST", status)


def in_flight(ports: Ports) -> int:
    return ports.state.metrics.http.in_flight.value
