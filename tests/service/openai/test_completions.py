import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.service.conftest import Client
from tests.service.generation.conftest import Words
from tests.service.openai.conftest import chunks, log_softmax

Complete = Callable[..., dict[str, Any]]
PATH = "/v1/completions"
PROMPT = "a delta rule"


def test_a_greedy_answer_is_what_the_model_continues_with(complete: Complete, words: Words) -> None:
    answer = complete(PROMPT, max_tokens=8)
    prompt = words.tokenizer.encode(PROMPT)
    expected = words.tokenizer.decode(words.continued(prompt, 8))
    (choice,) = answer["choices"]
    assert choice == {"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}
    assert (answer["object"], answer["model"]) == ("text_completion", "words")
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        len(prompt),
        8,
        len(prompt) + 8,
    )


def test_prompts_of_all_four_forms_give_the_same(complete: Complete, words: Words) -> None:
    tokens = words.tokenizer.encode(PROMPT)
    found = [complete(prompt)["choices"] for prompt in (PROMPT, [PROMPT], tokens, [tokens])]
    assert all(choices == found[0] for choices in found)
    several = complete([PROMPT, "leaves all"])
    assert [choice["index"] for choice in several["choices"]] == [0, 1]
    assert [choice["text"] for choice in several["choices"]] == [
        found[0][0]["text"],
        complete("leaves all")["choices"][0]["text"],
    ]


def test_a_stream_adds_up_to_the_whole_answer(texts: Client, complete: Complete) -> None:
    fields = {"n": 2, "temperature": 1, "seed": 5, "logprobs": 2, "max_tokens": 9}
    whole = complete([PROMPT, "leaves"], **fields)
    body = {"model": "words", "prompt": [PROMPT, "leaves"], "stream": True, **fields}
    response = texts.post(PATH, json={**body, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert "no-cache" in response.headers["cache-control"]
    *parts, last = chunks(response.text)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (
        whole["usage"]["prompt_tokens"],
        whole["usage"]["completion_tokens"],
    )
    assert all(part["usage"] is None for part in parts)
    for choice in whole["choices"]:
        own = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            assert [value for c in own for value in c["logprobs"][name]] == values
    assert len({part["id"] for part in parts}) == 1


def test_logprobs_are_those_of_the_model(complete: Complete, words: Words) -> None:
    prompt = words.tokenizer.encode(PROMPT)
    (choice,) = complete(PROMPT, logprobs=3, max_tokens=4)["choices"]
    answer = words.continued(prompt, 4)
    table = log_softmax(words.logits([*prompt, *answer]))[len(prompt) - 1 : -1]
    found = choice["logprobs"]
    np.testing.assert_allclose(found["token_logprobs"], table[range(4), answer], atol=1e-4)
    for row, likely in zip(table, found["top_logprobs"], strict=True):
        np.testing.assert_allclose(sorted(likely.values())[::-1][:2], np.sort(row)[::-1][:2], atol=1e-4)
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token) or token.startswith("bytes:")


def test_echo_scores_the_prompt_too(complete: Complete, words: Words) -> None:
    prompt = words.tokenizer.encode(PROMPT)
    (choice,) = complete(prompt, echo=True, logprobs=1, max_tokens=0)["choices"]
    assert choice["text"] == PROMPT
    assert choice["finish_reason"] == "length"
    found = choice["logprobs"]
    table = log_softmax(words.logits(prompt))
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    np.testing.assert_allclose(found["token_logprobs"][1:], table[range(len(prompt) - 1), prompt[1:]], atol=1e-4)
    assert all(PROMPT[o:].startswith(t) for t, o in zip(found["tokens"], found["text_offset"], strict=True))
    (longer,) = complete(PROMPT, echo=True, logprobs=1, max_tokens=2)["choices"]
    assert longer["logprobs"]["tokens"][: len(prompt)] == found["tokens"]
    assert len(longer["logprobs"]["tokens"]) == len(prompt) + 2
    assert longer["text"].startswith(PROMPT)
    (silent,) = complete(PROMPT, echo=True, max_tokens=0)["choices"]
    assert (silent["text"], silent["logprobs"]) == (PROMPT, None)


def test_the_same_seed_gives_the_same_text_and_choices_differ(complete: Complete) -> None:
    def texts_of(seed: int) -> list[str]:
        choices = complete(temperature=1.2, seed=seed, n=3, max_tokens=12)["choices"]
        return [choice["text"] for choice in choices]

    assert texts_of(1) == texts_of(1) != texts_of(2)
    assert len(set(texts_of(1))) == 3


def test_stop_strings_end_an_answer(complete: Complete) -> None:
    whole = complete(max_tokens=12)["choices"][0]["text"]
    stop = whole[3:6]
    (choice,) = complete(max_tokens=12, stop=stop)["choices"]
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_bias_and_stop_tokens(complete: Complete, words: Words) -> None:
    token = words.tokenizer.encode("x")[0]
    (choice,) = complete(logit_bias={str(token): 100}, max_tokens=3)["choices"]
    assert choice["text"] == words.tokenizer.decode([token] * 3)
    (ended,) = complete(logit_bias={str(token): 100}, max_tokens=3, stop_token_ids=[token])["choices"]
    assert (ended["text"], ended["finish_reason"]) == ("", "stop")


def test_best_of_tells_the_likeliest(complete: Complete) -> None:
    fields = {"temperature": 1, "seed": 3, "max_tokens": 5, "logprobs": 0}
    made = complete(n=4, **fields)["choices"]
    best = complete(n=1, best_of=4, **fields)["choices"]
    sums = [sum(choice["logprobs"]["token_logprobs"]) / 5 for choice in made]
    assert best[0]["text"] == made[int(np.argmax(sums))]["text"]


def test_structured_answers(complete: Complete) -> None:
    choices = complete(structured_outputs={"choice": ["yes", "no"]}, temperature=1, n=4, max_tokens=9)["choices"]
    assert {choice["text"] for choice in choices} <= {"yes", "no"}
    (choice,) = complete(structured_outputs={"regex": "[0-9]{3}"}, max_tokens=9)["choices"]
    assert choice["text"].isdecimal()
    assert len(choice["text"]) == 3
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    answer = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    (choice,) = complete(response_format=answer, max_tokens=40)["choices"]
    assert choice["text"] in ('{"a":true}', '{"a":false}', '{"a": true}', '{"a": false}')


def test_timings_are_told_on_demand(complete: Complete) -> None:
    assert "timings" not in complete()["choices"][0]
    (choice,) = complete(timings=True, max_tokens=4)["choices"]
    times = choice["timings"]
    assert times["queue_ms"] + times["prefill_ms"] == pytest.approx(times["first_token_ms"], abs=0.01)
    assert 0 < times["first_token_ms"] <= times["total_ms"]
    assert times["per_token_ms"] == pytest.approx((times["total_ms"] - times["first_token_ms"]) / 3, abs=0.01)


def test_a_prompt_that_is_asked_again_comes_from_the_cache(complete: Complete) -> None:
    prompt = "what is wanted and leaves all others alone"
    complete(prompt)
    usage = complete(prompt)["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]


def test_the_log_has_the_tokens(texts: Client, complete: Complete, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        answer = complete(max_tokens=3)
    (record,) = (r for r in caplog.records if r.name == "service.access")
    fields = record.__dict__["fields"]
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (answer["usage"]["prompt_tokens"], 3)
    assert PROMPT not in str(fields)
    assert answer["id"] == f"cmpl-{fields['request_id']}"
