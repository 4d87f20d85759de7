"""A header that was seen before is read from memory, with the same outcome."""

import json
from typing import Any

import numpy as np
import pytest

from service.errors import ServiceError
from service.manifest.manifest import Manifest
from service.protocol import decode as decoding
from service.protocol.call import InferCall, Limits
from service.protocol.decode import decode
from service.protocol.plans import _MOST_PLANS
from service.protocol.view import ModelView, model_view
from tests.service.tiny_bundle import HEIGHT, WIDTH, make_manifest

LIMITS = Limits(256, 200_000)


@pytest.fixture
def view() -> ModelView:
    return model_view("tiny", "1", Manifest.model_validate(make_manifest()))


def body(rows: int = 1, seed: int = 0, pad: int = 0, **members: Any) -> tuple[bytes, int]:
    """Return a binary request, its JSON filled up with `pad` blanks, and the length of that JSON."""
    data = np.random.default_rng(seed).standard_normal((rows, 1, HEIGHT, WIDTH)).astype(np.float32)
    tensor = {"name": "pixels", "shape": list(data.shape), "datatype": "FP32"}
    asked = {"inputs": [tensor | {"parameters": {"binary_data_size": data.nbytes}}], **members}
    header = json.dumps(asked).encode() + b" " * pad
    return header + data.tobytes(), len(header)


def slowly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a header is parsed."""
    parsed: list[int] = []
    loads = decoding._loads

    def count(given: Any) -> Any:
        parsed.append(len(given))
        return loads(given)

    monkeypatch.setattr(decoding, "_loads", count)
    return parsed


def same(one: InferCall, other: InferCall) -> None:
    assert one.feeds.keys() == other.feeds.keys()
    for name, array in one.feeds.items():
        assert array.dtype == other.feeds[name].dtype
        np.testing.assert_array_equal(array, other.feeds[name])
        assert array.flags.aligned
    for field in ("rows", "outputs", "id", "priority", "timeout_seconds", "parameters"):
        assert getattr(one, field) == getattr(other, field)


@pytest.mark.parametrize("pad", range(4))
@pytest.mark.parametrize(
    "members",
    [
        {},
        {"parameters": {"binary_data_output": True, "priority": 1, "timeout": 1000, "mine": "x"}},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
    ],
)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_the_second_time_is_like_the_first(
    view: ModelView, monkeypatch: pytest.MonkeyPatch, pad: int, members: dict[str, Any], kind: Any
) -> None:
    parsed = slowly(monkeypatch)
    for seed in range(3):
        request, length = body(2, seed, pad, **members)
        fresh = model_view("tiny", "1", Manifest.model_validate(make_manifest()))
        found = decode(kind(request), length, view, LIMITS)
        same(found, decode(kind(request), length, fresh, LIMITS))
    assert len(parsed) == 1 + 3


def test_a_request_keeps_its_own_parameters(view: ModelView) -> None:
    request, length = body(parameters={"mine": "x"})
    for _ in range(3):
        call = decode(request, length, view, LIMITS)
        assert call.parameters == {"mine": "x"}
        call.parameters["more"] = 1


@pytest.mark.parametrize(("cut", "more"), [(4, b""), (0, b"\0"), (10_000, b"")])
def test_a_known_header_with_another_body_is_looked_at_closely(view: ModelView, cut: int, more: bytes) -> None:
    request, length = body()
    decode(request, length, view, LIMITS)
    with pytest.raises(ServiceError):
        decode(request[: max(length, len(request) - cut)] + more, length, view, LIMITS)


def test_other_limits_are_kept(view: ModelView) -> None:
    request, length = body(rows=5)
    decode(request, length, view, LIMITS)
    with pytest.raises(ServiceError, match="5 rows, 4 are allowed"):
        decode(request, length, view, Limits(4, 200_000))


def test_headers_with_an_id_or_of_great_length_are_not_kept(view: ModelView, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = slowly(monkeypatch)
    for request, length in (body(id="a"), body(pad=2000)):
        for _ in range(2):
            decode(request, length, view, LIMITS)
    assert len(parsed) == 4


def test_many_different_headers_push_out_the_oldest(view: ModelView) -> None:
    for pad in range(_MOST_PLANS + 10):
        request, length = body(pad=pad)
        decode(request, length, view, LIMITS)
    assert len(view.plans._plans) == _MOST_PLANS
    assert body()[0][: body()[1]] not in view.plans._plans
