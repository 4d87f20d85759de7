"""Requests that contradict themselves or the model are refused by the name of the field."""

from typing import Any

import pytest

from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import InvalidFields

SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature must be from 0.0 to 100.0, got -0.1"),
    ({"temperature": float("nan")}, "temperature must be"),
    ({"top_k": -1}, "top_k must be at least 0"),
    ({"top_p": 0.0}, "top_p must be above 0"),
    ({"top_p": 1.1}, "top_p must be from"),
    ({"min_p": 1.1}, "min_p must be from"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ({"frequency_penalty": 2.1}, "frequency_penalty must be from -2.0 to 2.0"),
    ({"presence_penalty": -2.1}, "presence_penalty must be from"),
    ({"logit_bias": {3: 101.0}}, "logit_bias must be from -100 to 100, got 101.0"),
]

REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ()}, "prompt must have at least one token"),
    ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ({"max_tokens": 3, "min_tokens": 4}, "min_tokens is 4, more than max_tokens=3"),
    ({"stop": ("",)}, "stop has an empty string"),
    ({"stop": ("x",) * 17}, "stop takes at most 16"),
    ({"n": 0}, "n must be at least 1|n must be from 1"),
    ({"n": 2, "best_of": 1}, "best_of is 1, less than n=2"),
    ({"best_of": 2, "stream": True}, "best_of above n cannot be streamed"),
    ({"best_of": 2, "sampling": SamplingParams(temperature=0.0)}, "best_of above n needs a temperature"),
    ({"logprobs": 21}, "logprobs must be from 0 to 20"),
    ({"priority": -1}, "priority must be"),
    ({"deadline_seconds": 0.0}, "deadline_seconds must be above 0"),
]


@pytest.mark.parametrize(("fields", "message"), SAMPLING)
def test_sampling_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFields, match=message) as caught:
        SamplingParams(**fields)
    assert caught.value.details["field"] == next(iter(fields))


@pytest.mark.parametrize(("fields", "message"), REQUESTS)
def test_requests_that_contradict_themselves_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFields, match=message) as caught:
        GenerateRequest(**{"prompt": (1,), **fields})
    assert caught.value.details["field"] in fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": (1, 10)}, "prompt has token 10, the vocabulary ends at 9"),
        ({"prompt": (-1,)}, "prompt has token -1"),
        ({"stop_tokens": frozenset({11})}, "stop_tokens has token 11"),
        ({"sampling": SamplingParams(logit_bias={12: 1.0})}, "logit_bias has token 12"),
        ({"prompt": (1,) * 8, "max_tokens": 9}, "at most 16 tokens: the prompt has 8, max_tokens is 9"),
    ],
)
def test_requests_that_do_not_fit_the_model_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFields, match=message):
        GenerateRequest(**{"prompt": (1,), **fields}).check(vocabulary=10, slots=16)


def test_what_is_sound_passes() -> None:
    request = GenerateRequest((0, 9), max_tokens=14, n=2, best_of=3, stop=("x",), logprobs=0)
    request.check(vocabulary=10, slots=16)
    assert (request.choices, request.cost) == (3, 48)
