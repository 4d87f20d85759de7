"""Streams that are broken off, readers that do not read, errors on the way, limits."""

import asyncio
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from service.api.problems import KINDS, service_problem
from service.engine.generation.engine import GenerationEngine
from service.errors import ModelFailed, Overloaded
from service.security.keys import KeyFile, new_key, write_keys
from tests.service.conftest import Client, until
from tests.service.openai.conftest import chunks

PATH = "/v1/completions"
LONG = {"model": "words", "prompt": "a delta", "max_tokens": 240, "ignore_eos": True, "temperature": 0}


class Caller:
    """A client at the level of ASGI, which reads and hangs up as the test wants."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self.sent: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.hangs_up = asyncio.Event()
        self._body: list[bytes] = [json.dumps(body).encode()]
        scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 5),
            "http_version": "1.1",
            "scheme": "http",
            "server": ("127.0.0.1", 80),
        }
        self.done = asyncio.ensure_future(client.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.hangs_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)


def engine_of(texts: Client) -> GenerationEngine:
    return texts.state.repository.get("words").language.engine


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_slot(texts: Client, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(texts)
    before = (engine.loop.counts.cancelled, engine.loop.counts.answer_tokens)

    async def test() -> None:
        caller = Caller(texts, {**LONG, "n": 3, "stream": stream})
        await until(lambda: engine.loop.running == 3)
        if stream:
            await until(lambda: len(caller.sent) > 2)
        caller.hangs_up.set()
        await caller.done
        await until(lambda: engine.loop.running == 0)

    with caplog.at_level(logging.INFO, "service.access"):
        texts.run(test())
    assert engine.loop.counts.cancelled == before[0] + 3
    assert engine.loop.counts.answer_tokens - before[1] < 3 * 240
    (record,) = (r for r in caplog.records if r.name == "service.access")
    assert record.__dict__["fields"]["status"] == (200 if stream else 499)
    assert texts.get("/v2/health/live").status_code == 200


def test_who_does_not_read_holds_up_nobody(texts: Client) -> None:
    engine = engine_of(texts)

    async def test() -> str:
        deaf = [Caller(texts, {**LONG, "stream": True}) for _ in range(2 * engine.loop.limits.slots)]
        for caller in deaf:
            caller.reads.clear()
        response = await texts.arequest("POST", PATH, json={**LONG, "max_tokens": 5})
        await until(lambda: engine.loop.running == 0)  # also of those who do not read
        assert not any(caller.done.done() for caller in deaf)
        for caller in deaf:
            caller.reads.set()
        await asyncio.gather(*(caller.done for caller in deaf))
        whole = {"".join(c["text"] for c in _choices(caller)) for caller in deaf}
        assert len(whole) == 1  # nothing is lost
        text: str = response.json()["choices"][0]["text"]
        assert whole.pop().startswith(text)
        return text

    assert texts.run(test())


def _choices(caller: Caller) -> list[dict[str, Any]]:
    text = b"".join(message.get("body", b"") for message in caller.sent).decode()
    return [choice for chunk in chunks(text) for choice in chunk["choices"]]


def test_answers_beside_each_other_are_those_that_each_gets_alone(texts: Client) -> None:
    bodies = [
        {"model": "words", "prompt": "a delta rule"[: 3 + i], "max_tokens": 5 + i, "seed": i, "stream": bool(i % 2)}
        for i in range(12)
    ]

    def text(response: Any) -> str:
        parts = chunks(response.text) if response.text.startswith("data:") else [response.json()]
        return "".join(choice["text"] for part in parts for choice in part["choices"])

    async def test() -> list[Any]:
        return await asyncio.gather(*(texts.arequest("POST", PATH, json=body) for body in bodies))

    together = [text(response) for response in texts.run(test())]
    assert together == [text(texts.post(PATH, json=body)) for body in bodies]


def test_64_streams_of_which_many_are_broken_off(texts: Client) -> None:
    engine, chance = engine_of(texts), random.Random(0)
    bodies = [
        {"model": "words", "prompt": "a delta rule moves"[: 2 + i % 16], "max_tokens": 24, "seed": i, "stream": True}
        for i in range(64)
    ]

    async def listen(caller: Caller, events: int | None) -> str | None:
        if events is None:
            await caller.done
            return "".join(choice["text"] for choice in _choices(caller))
        await until(lambda: len(caller.sent) > events or caller.done.done())
        caller.hangs_up.set()
        await caller.done
        return None

    async def test() -> list[str | None]:
        callers = [Caller(texts, body) for body in bodies]
        patience = [chance.randrange(12) if chance.random() < 0.4 else None for _ in callers]
        return await asyncio.gather(*(listen(*pair) for pair in zip(callers, patience, strict=True)))

    found = texts.run(test())
    texts.run(until(lambda: engine.loop.running == engine.loop.waiting == 0))
    assert 30 < sum(text is not None for text in found) < 50
    for body, text in zip(bodies, found, strict=True):
        if text is not None:
            alone = texts.post(PATH, json={**body, "stream": False}).json()
            assert alone["choices"][0]["text"] == text


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_that_has_passed_is_504(texts: Client, stream: bool) -> None:
    response = texts.post(PATH, json={**LONG, "timeout": 1e-9, "stream": stream})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_passed"
    assert response.json()["error"]["type"] == "server_error"


def test_a_full_queue_is_429_and_says_when_to_come_again(texts: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(texts)

    def full(*_: Any) -> Any:
        raise Overloaded("3 answers wait already; try again later", retry_after_seconds=7)

    whole = engine.submit
    taken: list[Any] = []

    def second_is_too_many(request: Any) -> Any:
        if taken:
            full()
        taken.append(whole(request))
        return taken[-1]

    monkeypatch.setattr(engine, "submit", second_is_too_many)
    response = texts.post(PATH, json={**LONG, "prompt": ["a", "b"]})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert response.json()["error"]["code"] == "overloaded"
    texts.run(until(lambda: engine.loop.running == engine.loop.waiting == 0))  # the first was given up


def test_a_model_that_fails_on_the_way(texts: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = engine_of(texts).loop._stepper
    decode, steps = stepper.decode, iter(range(100))

    def fails_at_the_fifth(*arguments: Any, **options: Any) -> Any:
        if next(steps) % 50 > 3:
            raise ModelFailed("the model could not be run: no memory")
        return decode(*arguments, **options)

    monkeypatch.setattr(stepper, "decode", fails_at_the_fifth)
    response = texts.post(PATH, json={**LONG, "stream": True})
    assert response.status_code == 200
    *parts, last = chunks(response.text)
    assert len(parts) == 5
    assert last["error"]["message"] == "the model could not be run: no memory"
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "model_failed")
    whole = texts.post(PATH, json=LONG)
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "model_failed")
    monkeypatch.undo()
    assert texts.post(PATH, json={**LONG, "max_tokens": 3}).status_code == 200


def test_keys_scopes_and_rates_are_refused_in_openais_form(serve: Callable[..., Client], tmp_path: Path) -> None:
    key, record = new_key("slow", ["infer"], rate=0.001, burst=1)
    other, other_record = new_key("gates", ["gates"])
    write_keys(tmp_path / "keys.json", KeyFile(keys=(record, other_record)))
    client = serve(api_keys=tmp_path / "keys.json")

    def error(key: str) -> tuple[int, str, str]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        response = client.post(PATH, json={}, headers=headers)
        assert ("retry-after" in response.headers) == (response.status_code == 429)
        found = response.json()["error"]
        return response.status_code, found["type"], found["code"]

    assert error("") == (401, "authentication_error", "invalid_api_key")
    assert error("sk-nix") == (401, "authentication_error", "invalid_api_key")
    assert error(other) == (403, "permission_error", "forbidden")
    assert error(key)[0] == 400
    assert error(key) == (429, "rate_limit_error", "rate_limit_exceeded")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_openais_form_and_a_status_its_clients_know(kind: type[Exception]) -> None:
    request = Request({"type": "http", "path": PATH, "headers": [], "state": {"request_id": "r1"}})
    answer = service_problem(request, kind("what it is"))
    error = json.loads(answer.body)["error"]
    assert error["message"] == "what it is"
    assert answer.status_code not in (409, 422) or kind.__name__ == "ControlRefused"
    expected = "server_error" if answer.status_code >= 500 else error["type"]
    assert error["type"] == expected
    assert isinstance(error["code"], str)
