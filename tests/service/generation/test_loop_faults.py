"""Answers that are given up, come too late, fail or do not fit, and their neighbours who notice nothing."""

from typing import Any

import numpy as np
import pytest

from service.engine.generation.events import TokenEvent
from service.errors import DeadlinePassed, InvalidFields, ModelFailed, ModelNotReady, Overloaded
from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT, Engine


def test_a_cancelled_answer_frees_its_slot_for_the_next(words: Words) -> None:
    engine = Engine(words, slots=1)
    first, second = engine.ask(TEXT[:5], 20), engine.ask(TEXT[30:33], 3)
    engine.loop.turn()
    told = len(first.events[0])
    first.cancel()
    engine.finish()
    assert len(first.events[0]) == told
    engine.check(second)
    waiting = engine.ask(TEXT[:5], 20)
    waiting.cancel()
    engine.finish()
    assert waiting.events == [[]]
    assert engine.loop.counts.cancelled == 2


def test_who_waits_too_long_is_told_and_never_computed(words: Words) -> None:
    engine = Engine(words, slots=1)
    first, late = engine.ask(TEXT[:5], 6), engine.ask(TEXT[:3], 3, deadline_seconds=2.0)
    engine.loop.turn()
    engine.clock.now = 2.0
    engine.finish()
    engine.check(first)
    assert isinstance(late.last.error, DeadlinePassed)
    assert engine.loop.counts.expired == 1


def test_a_listener_that_fails_harms_only_itself(engine: Engine) -> None:
    def fail(event: TokenEvent) -> None:
        raise RuntimeError("the pipe is broken")

    first, second = engine.ask(TEXT[:5]), engine.ask(TEXT[9:12])
    first.told = fail
    engine.finish()
    engine.check(second)
    assert len(first.events[0]) == 1
    assert engine.loop.counts.failed == 1


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_step_that_fails_costs_only_the_guilty_its_answer(
    words: Words, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row's input makes every run fail that it is part of."""
    engine = Engine(words, step_tokens=64)
    guilty = engine.ask(TEXT[20:23], 5)
    others = [engine.ask(TEXT[:5], 5), engine.ask(TEXT[30:34], 5)]
    poison = TEXT[21] if kind == "prefill" else words.continued(TEXT[20:23], 2)[1]
    real = getattr(engine.stepper, kind)

    def step(*arguments: Any) -> Any:
        parts = arguments[1] if kind == "prefill" else [arguments[0]]
        if any(poison in part for part in parts):
            raise ModelFailed("poisoned")
        return real(*arguments)

    monkeypatch.setattr(engine.stepper, kind, step)
    engine.finish()
    engine.check(*others)
    assert isinstance(guilty.last.error, ModelFailed)
    assert guilty.tokens() == ([] if kind == "prefill" else words.continued(TEXT[20:23], 2))


def test_logits_that_are_no_numbers_end_one_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = engine.ask(TEXT[:5]), engine.ask(TEXT[30:34])
    real = engine.stepper.decode

    def decode(*arguments: Any) -> Any:
        logits = real(*arguments)
        logits[0] = np.nan
        return logits

    monkeypatch.setattr(engine.stepper, "decode", decode)
    engine.loop.turn()
    monkeypatch.undo()
    engine.finish()
    broken, whole = (first, second) if first.last.error else (second, first)
    assert "the logits are no numbers" in str(broken.last.error)
    engine.check(whole)


def test_what_does_not_fit_is_refused_before_it_waits(engine: Engine) -> None:
    with pytest.raises(InvalidFields, match="at most 32 tokens: the prompt has 30, max_tokens is 3"):
        engine.ask(TEXT[:30], 3)
    with pytest.raises(InvalidFields, match="token 270, the vocabulary ends at 269"):
        engine.ask([270])
    small = Engine(engine.words, queue_limit=2)
    small.ask(TEXT[:3])
    with pytest.raises(Overloaded):
        small.ask(TEXT[:3], n=2)
    small.finish()


def test_an_end_of_all_is_told_to_all(words: Words) -> None:
    engine = Engine(words, slots=2)
    answers = [engine.ask(TEXT[i : i + 9]) for i in range(4)]
    engine.loop.turn()
    engine.loop.fail_all(ModelNotReady("unloaded"))
    assert all(isinstance(answer.last.error, ModelNotReady) for answer in answers)
    assert not engine.loop.turn()
    assert len(engine.ended) == 4
