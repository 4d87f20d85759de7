"""What is told beside the tokens: likelihoods of the prompt, gates of every step, timings."""

import asyncio
from typing import Any

import numpy as np
import pytest

from service.engine.generation.events import PromptScore
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import InvalidFields
from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT, Engine


def expected(words: Words, tokens: list[int]) -> np.ndarray:
    logits = words.logits(tokens).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def check_score(words: Words, score: PromptScore | None, tokens: list[int], start: int = 1, top: int = 0) -> None:
    assert score is not None
    assert list(score.tokens) == tokens
    assert score.logprobs[:start] == (None,) * min(start, len(tokens))
    table = expected(words, tokens)
    for place in range(start, len(tokens)):
        row = table[place - 1]
        assert score.logprobs[place] == pytest.approx(row[tokens[place]], abs=1e-4)
        assert score.greedy[place] == (row.argmax() == tokens[place])
        likeliest = np.argsort(-row, kind="stable")[:top]
        assert [token for token, _ in score.top[place]] == likeliest.tolist()
        np.testing.assert_allclose([logprob for _, logprob in score.top[place]], row[likeliest], atol=1e-4)
    assert not any(score.top[:start])


@pytest.mark.parametrize(("size", "step_tokens"), [(1, 8), (2, 1), (19, 8), (19, 64), (20, 7)])
def test_a_text_is_scored_whatever_the_chunks(words: Words, size: int, step_tokens: int) -> None:
    engine = Engine(words, step_tokens=step_tokens, slot_tokens=32)
    answer = engine.ask(TEXT[:size], 0, prompt_logprobs=3)
    engine.finish()
    (event,) = answer.events[0]
    assert (event.token, event.finish, event.text) == (None, "length", "")
    check_score(words, event.prompt, TEXT[:size], top=3)
    assert engine.loop.counts.answer_tokens == 0


def test_a_likely_text_is_told_to_be_greedy(words: Words) -> None:
    engine = Engine(words)
    text = [*TEXT[:4], *words.continued(TEXT[:4], 6)]
    answer = engine.ask(text, 0, prompt_logprobs=0, scored_from=4)
    engine.finish()
    score = answer.last.prompt
    check_score(words, score, text, start=4)
    assert score is not None
    assert score.greedy == (False,) * 4 + (True,) * 6


def test_endings_of_one_beginning_take_it_over(words: Words) -> None:
    engine = Engine(words, slots=2)
    for ending in (TEXT[30:33], TEXT[40:45], TEXT[50:51]):
        answer = engine.ask([*TEXT[:20], *ending], 0, prompt_logprobs=0, scored_from=20)
        engine.finish()
        check_score(words, answer.last.prompt, [*TEXT[:20], *ending], start=20)
    assert [sequence.reused for sequence in engine.ended] == [0, 19, 19]
    again = engine.ask([*TEXT[:20], *TEXT[50:51]], 0, prompt_logprobs=1)
    engine.finish()
    check_score(words, again.last.prompt, [*TEXT[:20], *TEXT[50:51]], top=1)


def test_a_scored_prompt_is_continued_by_every_choice(words: Words) -> None:
    engine = Engine(words)
    answer = engine.ask(TEXT[:9], 4, prompt_logprobs=0, n=3)
    engine.finish()
    engine.check(answer)
    scores = [[event.prompt for event in events] for events in answer.events]
    check_score(words, scores[0][0], TEXT[:9])
    assert not any([*scores[0][1:], *scores[1], *scores[2]])
    assert [sequence.reused for sequence in engine.ended] == [0, 9, 9]


def test_the_score_stays_with_the_best_of_several(words: Words) -> None:
    engine = Engine(words, slots=4)
    sampling = SamplingParams(temperature=1.0, seed=5)
    answer = engine.ask(TEXT[:9], 4, sampling, prompt_logprobs=0, n=2, best_of=4)
    engine.finish()
    check_score(words, answer.events[0][0].prompt, TEXT[:9])
    assert not any(event.prompt for events in answer.events for event in events[1:])


def gates_of(words: Words, tokens: list[int], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    outputs = words._whole.run({"input_ids": np.array([tokens])}, list(names))
    return {name: array[0] for name, array in outputs.items()}


@pytest.mark.parametrize("prompt_gates", [False, True])
def test_gates_ride_on_the_tokens_that_they_led_to(words: Words, prompt_gates: bool) -> None:
    names = tuple(sorted(name for name in words.stepper(1, 4).gate_names if name.endswith(("beta", "target", "/v"))))
    assert len(names) >= 2
    engine = Engine(words, step_tokens=4)
    plain = engine.ask(TEXT[3:12], 5)
    answer = engine.ask(TEXT[:7], 5, gates=names, prompt_gates=prompt_gates)
    other = engine.ask(TEXT[:11], 4, gates=names[:1])
    engine.finish()
    again = engine.ask(TEXT[:7], 5, gates=names, prompt_gates=prompt_gates)
    engine.finish()
    engine.check(plain, answer, other, again)
    assert not any(event.gates for event in plain.events[0])
    for asked, wanted, whole in (
        (answer, names, prompt_gates),
        (again, names, prompt_gates),
        (other, names[:1], False),
    ):
        prompt = list(asked.request.prompt)
        table = gates_of(words, [*prompt, *asked.tokens()], wanted)
        for place, event in enumerate(asked.events[0]):
            assert event.gates is not None
            last = len(prompt) + place - 1
            first = 0 if whole and not place else last
            assert event.gates.first == first
            assert event.gates.values.keys() == set(wanted)
            for name, rows in event.gates.values.items():
                np.testing.assert_allclose(rows, table[name][first : last + 1], rtol=1e-4, atol=1e-5)


def test_the_last_event_tells_how_long_it_took(words: Words) -> None:
    engine = Engine(words, slots=1)
    first = engine.ask(TEXT[:5], 3)
    second = engine.ask(TEXT[:5], 2)
    for _ in range(50):
        engine.loop.turn()
        engine.clock.now += 1.0
    timings = [answer.last.timings for answer in (first, second)]
    assert all(event.timings is None for event in first.events[0][:-1])
    assert timings[0] is not None
    assert timings[1] is not None
    assert (timings[0].prompt_tokens, timings[0].reused_tokens, timings[0].answer_tokens) == (5, 0, 3)
    assert (timings[1].prompt_tokens, timings[1].reused_tokens, timings[1].answer_tokens) == (5, 5, 2)
    assert timings[0].queue_seconds == 0.0
    assert timings[1].queue_seconds == timings[0].total_seconds + 1.0
    assert timings[1].first_token_seconds == timings[1].queue_seconds


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt_gates": True}, "prompt_gates"),
        ({"prompt_logprobs": 1, "scored_from": 0}, "scored_from"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFields) as refusal:
        GenerateRequest((1, 2), **fields)
    assert refusal.value.details["field"] == field


def test_unknown_gates_are_refused(words: Words) -> None:
    with pytest.raises(InvalidFields, match="'logits' is no gate output"):
        Engine(words).ask(TEXT[:3], gates=("logits",))


def test_a_language_without_a_step_scores_whole_texts(words: Words) -> None:
    from service.engine.generation.language import Language
    from service.errors import TaskMismatch

    async def main() -> None:
        language = Language(words.task, words._whole, None, None, Engine(words).limits)
        check_score(words, await language.score(tuple(TEXT[:9]), top=2), TEXT[:9], top=2)
        check_score(words, await language.score(tuple(TEXT[:9]), start=6), TEXT[:9], start=6)
        with pytest.raises(InvalidFields):
            await language.score((270,))
        for attribute in ("engine", "tokenizer"):
            with pytest.raises(TaskMismatch):
                getattr(language, attribute)
        await language.drain()
        await language.close()

    asyncio.run(main())
