"""Continuous batching gives every caller the tokens that it would get alone, whatever the others do."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT, Answer, Engine


@pytest.mark.parametrize("step_tokens", [1, 3, 8, 64])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_mixed_lengths_come_out_as_alone(words: Words, slots: int, step_tokens: int) -> None:
    engine = Engine(words, slots=slots, step_tokens=step_tokens)
    sizes = [(1, 9), (20, 3), (4, 1), (11, 6), (2, 12), (7, 2), (1, 1)]
    answers = [engine.ask(TEXT[3 * i : 3 * i + size], count) for i, (size, count) in enumerate(sizes)]
    engine.finish()
    engine.check(*answers)
    assert engine.loop.counts.completed == len(answers) == len(engine.ended)
    assert engine.loop.counts.answer_tokens == sum(count for _, count in sizes)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_course_of_events_leaves_every_answer_as_alone(words: Words, data: st.DataObject) -> None:
    """Requests come, some leave, prompts repeat and share beginnings, in any order."""
    engine = Engine(words, slots=data.draw(st.integers(1, 4)), step_tokens=data.draw(st.integers(1, 40)))
    chance = random.Random(data.draw(st.integers(0, 10**6)))
    answers: list[Answer] = []
    gone: set[int] = set()
    for _ in range(data.draw(st.integers(3, 25))):
        action = chance.random()
        if action < 0.5:
            start = chance.choice([0, 0, 0, 40])
            prompt = (
                TEXT[start : start + chance.choice([1, 5, 18, 19, 24])] + TEXT[100 : 100 + chance.choice([0, 0, 1, 4])]
            )
            if answers and chance.random() < 0.2:  # a conversation goes on
                before = chance.choice(answers)
                prompt = [*before.request.prompt, *before.tokens(), 7][:26]
            answers.append(engine.ask(prompt, chance.choice([1, 2, 4]), n=chance.choice([1, 1, 3])))
        elif action < 0.65 and answers:
            index = chance.randrange(len(answers))
            answers[index].cancel()
            gone.add(index)
        else:
            engine.loop.turn()
    engine.finish()
    for index, answer in enumerate(answers):
        expected = words.continued(answer.request.prompt, answer.request.max_tokens)
        for choice in range(answer.request.n):
            tokens = answer.tokens(choice)
            assert tokens == expected[: len(tokens)] if index in gone else tokens == expected


def test_prompts_are_computed_in_chunks_between_steps_of_the_others(engine: Engine) -> None:
    first = engine.ask(TEXT[:2], 12)
    engine.loop.turn()
    long = engine.ask(TEXT[50:74], 2)
    seen = []
    while not long.events[0]:
        before = len(first.tokens())
        assert engine.loop.turn()
        seen.append(len(first.tokens()) - before)
    assert seen == [1, 1, 1, 1]  # 24 tokens, seven beside the one of the answer
    engine.finish()
    engine.check(first, long)


def test_a_repeated_prompt_is_not_computed_again(engine: Engine) -> None:
    first = engine.ask(TEXT[:20], 3)
    engine.finish()
    steps = engine.loop.counts.prefill_steps
    again = [engine.ask(TEXT[:20], 5) for _ in range(4)]
    engine.finish()
    engine.check(first, *again)
    assert engine.loop.counts.prefill_steps == steps
    assert engine.loop.counts.reused_tokens == 80


def test_the_same_prompt_at_the_same_time_is_computed_once(engine: Engine) -> None:
    answers = [engine.ask(TEXT[:7], 3, caller=str(i)) for i in range(5)]
    engine.finish()
    engine.check(*answers)
    assert engine.loop.counts.prefill_steps == 1
    assert engine.loop.counts.reused_tokens == 28


def test_a_shared_beginning_is_marked_by_the_second_and_used_by_the_third(engine: Engine) -> None:
    for end, reused in ((20, 0), (30, 0), (40, 18)):
        answer = engine.ask(TEXT[:18] + TEXT[end : end + 4], 2)
        engine.finish()
        engine.check(answer)
        assert engine.ended[-1].reused == reused


def test_a_conversation_goes_on_in_its_slot(engine: Engine) -> None:
    first = engine.ask(TEXT[:6], 4)
    engine.finish()
    prompt = [*TEXT[:6], *first.tokens(), *TEXT[60:63]]
    second = engine.ask(prompt, 4)
    engine.finish()
    engine.check(first, second)
    assert engine.ended[-1].reused == 9  # all but the answer's last token, which was never computed


def test_gaps_are_closed_and_the_answers_go_on(engine: Engine) -> None:
    answers = [engine.ask(TEXT[9 * i : 9 * i + 3], count) for i, count in enumerate([2, 9, 9])]
    engine.finish()
    engine.check(*answers)
    assert engine.loop.counts.exchanges > 0


def test_a_text_may_fill_its_slot_to_the_last_place(engine: Engine) -> None:
    full = engine.ask(TEXT[:20], 12)
    other = engine.ask(TEXT[40:42], 25)
    engine.finish()
    late = engine.ask(TEXT[80:81], 3)
    engine.finish()
    engine.check(full, other, late)
