"""Whatever is asked, both ways give the same answer."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.service.lane.conftest import Ports
from tests.service.tiny_bundle import HEIGHT, WIDTH

PIXELS = HEIGHT * WIDTH
PATH = "/v2/models/tiny/infer"

Change = Callable[[dict[str, Any], random.Random], None]


def question(rng: random.Random, rows: int = 1) -> dict[str, Any]:
    data = [rng.gauss(0, 1) for _ in range(rows * PIXELS)]
    return {"inputs": [{"name": "pixels", "shape": [rows, 1, HEIGHT, WIDTH], "datatype": "FP32", "data": data}]}


def binary(rng: random.Random, rows: int = 1) -> tuple[bytes, int]:
    asked = question(rng, rows)
    data = asked["inputs"][0].pop("data")
    asked["inputs"][0]["parameters"] = {"binary_data_size": 4 * len(data)}
    if rng.random() < 0.5:
        asked["parameters"] = {"binary_data_output": True}
    head = json.dumps(asked).encode()
    return head + struct.pack(f"<{len(data)}f", *data), len(head)


def http(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _edit(*path: str | int, value: Any) -> Change:
    def change(asked: dict[str, Any], rng: random.Random) -> None:
        part: Any = asked
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value

    return change


def _drop(*path: str | int) -> Change:
    def change(asked: dict[str, Any], rng: random.Random) -> None:
        part: Any = asked
        for step in path[:-1]:
            part = part[step]
        del part[path[-1]]

    return change


CHANGES: list[Change] = [
    lambda asked, rng: None,
    _edit("id", value="a name"),
    _edit("id", value=7),
    _edit("outputs", value=[{"name": "logits"}]),
    _edit("outputs", value=[{"name": "0.attn/beta"}, {"name": "logits"}]),
    _edit("outputs", value=[{"name": "logits", "parameters": {"binary_data": True}}]),
    _edit("outputs", value=[{"name": "probabilities", "parameters": {"classification": 2}}]),
    _edit("outputs", value=[{"name": "nothing"}]),
    _edit("outputs", value=[]),
    _edit("parameters", value={"priority": 1, "timeout": 5_000_000}),
    _edit("parameters", value={"priority": -1}),
    _edit("parameters", value={"timeout": "soon"}),
    _edit("parameters", value={"sequence_id": 3}),
    _edit("surprise", value=1),
    _drop("inputs"),
    _edit("inputs", value=[]),
    _edit("inputs", value=None),
    _edit("inputs", 0, "name", value="other"),
    _edit("inputs", 0, "shape", value=[1, 1, WIDTH, HEIGHT]),
    _edit("inputs", 0, "shape", value=[2**40, 1, HEIGHT, WIDTH]),
    _edit("inputs", 0, "shape", value=[0, 1, HEIGHT, WIDTH]),
    _edit("inputs", 0, "shape", value=[1.0, 1, HEIGHT, WIDTH]),
    _edit("inputs", 0, "datatype", value="INT64"),
    _edit("inputs", 0, "data", 3, value=None),
    _edit("inputs", 0, "data", 3, value=1e39),
    _edit("inputs", 0, "data", 3, value=True),
    _edit("inputs", 0, "data", value=[1.0]),
    _edit("inputs", 0, "parameters", value={"binary_data_size": 4 * PIXELS}),
    _edit("inputs", 0, "parameters", value={"shared_memory_region": "x"}),
    _drop("inputs", 0, "data"),
    lambda asked, rng: asked["inputs"].append(asked["inputs"][0]),
]
PATHS = [PATH] * 8 + [
    "/v2/models/tiny/versions/1/infer",
    "/v2/models/tiny/versions/2/infer",
    "/v2/models/tiny/versions/x/infer",
    "/v2/models/nix/infer",
    "/v2/models//infer",
    "/v2/models/tiny/infer/",
    "/v2/models/t%69ny/infer",
    "/v2/models/tiny/infer?x=1",
]
HEADERS = [
    [],
    ["Content-Type: application/json"],
    ["Content-Type: application/json; charset=utf-8"],
    ["Content-Type: application/octet-stream"],
    ["Content-Type: text/plain"],
    ["Content-Encoding: gzip"],
    ["Inference-Header-Content-Length: x"],
    ["Inference-Header-Content-Length: 0"],
    ["Authorization: Bearer nothing"],
    ["X-Request-ID: not/fit"],
    ["Connection: close"],
    ["Origin: http://elsewhere.example"],
    ["Accept-Encoding: gzip"],
]


def generated(rng: random.Random) -> bytes:
    headers = [*rng.choice(HEADERS)] if rng.random() < 0.5 else []
    if not any(header.startswith("X-Request-ID") for header in headers):
        headers.append("X-Request-ID: same")
    rows = rng.choice([1, 1, 2, 5])
    kind = rng.random()
    if kind < 0.6:
        asked = question(rng, rows)
        for change in rng.sample(CHANGES, rng.choice([1, 1, 2])):
            try:
                change(asked, rng)
            except (KeyError, IndexError, TypeError, AttributeError):  # the first change left nothing for the second
                continue
        body = json.dumps(asked).encode()
    else:
        body, length = binary(rng, rows)
        length += rng.choice([0, 0, 0, -1, 1, 10**9])
        headers.append(f"Inference-Header-Content-Length: {length}")
    if rng.random() < 0.15:
        cut = rng.randrange(len(body))
        body = rng.choice([body[:cut], body + b"\0", bytes([body[0] ^ 0x80]) + body[1:], b""])
    return http(rng.choice(PATHS), body, *headers)


@pytest.mark.parametrize("seed", range(8))
def test_generated_requests(ports: Ports, seed: int) -> None:
    rng = random.Random(seed)
    statuses, before = [], len(ports.short)
    for _ in range(60):
        request = generated(rng)
        short, long = ports.both(request)
        assert short.status == long.status, request
        assert short.body.replace(short.headers["x-request-id"].encode(), b"ID") == long.body.replace(
            long.headers["x-request-id"].encode(), b"ID"
        ), request
        ignored = () if b"X-Request-ID: same" in request else ("x-request-id", "content-length")
        assert {name: value for name, value in short.headers.items() if name not in ignored} == {
            name: value for name, value in long.headers.items() if name not in ignored
        }, request
        statuses.append(short.status)
    assert len(ports.short) - before > 20, "the short way was hardly taken"
    assert {200, 400, 404} <= set(statuses)
    assert 500 not in statuses


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_alone(ports: Ports, change: Change) -> None:
    rng = random.Random(1)
    asked = question(rng)
    change(asked, rng)
    before = len(ports.short)
    short, long = ports.both(http(PATH, json.dumps(asked).encode(), "X-Request-ID: same"))
    assert short == long
    assert len(ports.short) == before + 1
