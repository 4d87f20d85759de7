"""What a request says of its answer: seed, end, likelihoods, the best of several."""

import numpy as np
import pytest

from service.engine.generation.request import SamplingParams
from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT, Engine


def test_a_seed_gives_its_text_whatever_else_runs(words: Words) -> None:
    sampling = SamplingParams(temperature=1.3, top_k=50, top_p=0.95, repetition_penalty=1.1, seed=11)
    alone = Engine(words)
    expected = alone.ask(TEXT[:5], 15, sampling, n=2)
    alone.finish()
    assert expected.tokens(0) != expected.tokens(1)
    crowd = Engine(words, slots=4, step_tokens=5)
    others = [crowd.ask(TEXT[i : i + 9], 5, SamplingParams(seed=i)) for i in range(6)]
    crowd.loop.turn()
    answer = crowd.ask(TEXT[:5], 15, sampling, n=2)
    crowd.finish()
    assert [answer.tokens(choice) for choice in range(2)] == [expected.tokens(choice) for choice in range(2)]
    assert all(len(other.tokens()) == 5 for other in others)


def test_stop_strings_and_tokens_end_an_answer(words: Words) -> None:
    engine = Engine(words)
    plain = engine.ask(TEXT[:5], 12)
    engine.finish()
    tokens, text = plain.tokens(), plain.text()
    assert len({*tokens}) == len(tokens), "the model repeats itself: choose another prompt"
    word = text[3:6]
    by_text = engine.ask(TEXT[:5], 12, stop=(word,))
    by_token = engine.ask(TEXT[:5], 12, stop_tokens=frozenset({tokens[4]}))
    bound = engine.ask(TEXT[:5], 12, stop_tokens=frozenset({tokens[4]}), min_tokens=8)
    engine.finish()
    assert (by_text.text(), by_text.last.finish) == (text[: text.index(word)], "stop")
    assert (by_token.tokens(), by_token.last.finish) == (tokens[:5], "stop")
    assert by_token.text() == words.tokenizer.decode(tokens[:4])
    assert len(bound.tokens()) >= 8
    assert tokens[4] not in bound.tokens()[:8]


def test_the_end_of_text_ends_an_answer(words: Words) -> None:
    engine = Engine(words)
    end = words.tokenizer.end_of_text
    assert end is not None
    likely = SamplingParams(temperature=0.0, logit_bias={end: 100.0})
    answer, other = engine.ask(TEXT[:5], 9, likely, ignore_end=False), engine.ask(TEXT[:5], 9, likely)
    engine.finish()
    assert (answer.tokens(), answer.text(), answer.last.finish) == ([end], "", "stop")
    assert other.tokens() == [end] * 9


def test_log_probabilities_are_those_of_the_whole_text(words: Words) -> None:
    engine = Engine(words)
    answer = engine.ask(TEXT[:5], 4, SamplingParams(temperature=3.0, seed=1, presence_penalty=1.0), logprobs=2)
    engine.finish()
    logits = words.logits([*TEXT[:5], *answer.tokens()])[4:-1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for event, row in zip(answer.events[0], expected, strict=True):
        assert event.token is not None
        assert event.logprob == pytest.approx(row[event.token], abs=1e-4)
        assert [token for token, _ in event.top] == np.argsort(-row)[:2].tolist()
        assert [value for _, value in event.top] == pytest.approx(np.sort(row)[::-1][:2].tolist(), abs=1e-4)


def test_the_best_answers_are_told_when_all_have_ended(words: Words) -> None:
    sampling = SamplingParams(seed=5, temperature=1.5)
    every, some = Engine(words), Engine(words)
    many = every.ask(TEXT[:5], 4, sampling, n=5, logprobs=0)
    every.finish()
    best = some.ask(TEXT[:5], 4, sampling, n=2, best_of=5)
    some.finish()
    means = [np.mean([event.logprob for event in events]) for events in many.events]
    order = np.argsort(means)[::-1]
    assert [best.tokens(choice) for choice in range(2)] == [many.tokens(choice) for choice in order[:2]]
