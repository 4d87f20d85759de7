"""Continuous batching gives every caller the tokens that it would get alone, whatever the others do."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.generation.events import TokenEvent
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.loop import GenerationLoop
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.engine.generation.sequence import Sequence
from service.engine.generation.stepper import Stepper
from service.errors import DeadlinePassed, InvalidFields, ModelFailed, ModelNotReady, Overloaded
from tests.service.fakes import ManualClock
from tests.service.generation.conftest import Words

GREEDY = SamplingParams(temperature=0.0)
TEXT: list[int] = np.random.default_rng(8).integers(1, 270, 200).tolist()


class Answer:
    """What one request was told."""

    def __init__(self, engine: "Engine", request: GenerateRequest) -> None:
        self.request = request
        self.events: list[list[TokenEvent]] = [[] for _ in range(request.n)]
        self.told: Callable[[TokenEvent], None] = lambda event: None
        self.sequences = engine.loop.submit(request, self._take)

    def _take(self, event: TokenEvent) -> None:
        events = self.events[event.choice]
        assert not (events and events[-1].is_last), "nothing comes after the last event"
        events.append(event)
        self.told(event)

    def tokens(self, choice: int = 0) -> list[int]:
        return [event.token for event in self.events[choice] if event.token is not None]

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.events[choice])

    @property
    def last(self) -> TokenEvent:
        return self.events[0][-1]

    def cancel(self) -> None:
        for sequence in self.sequences:
            sequence.is_cancelled = True


class Engine:
    """A loop over the small model, on a clock that is moved by hand."""

    def __init__(self, words: Words, *, slots: int = 3, slot_tokens: int = 32, step_tokens: int = 8, **limits: Any):
        self.words = words
        self.clock = ManualClock()
        self.limits = GenerationLimits(slots=slots, slot_tokens=slot_tokens, step_tokens=step_tokens, **limits)
        self.stepper: Stepper = words.stepper(slots, slot_tokens)
        self.ended: list[Sequence] = []
        self.loop = GenerationLoop(
            self.stepper, words.tokenizer, self.limits, clock=self.clock, ended=self.ended.append
        )

    def ask(self, prompt: list[int], max_tokens: int = 6, sampling: SamplingParams = GREEDY, **fields: Any) -> Answer:
        fields.setdefault("ignore_end", True)
        return Answer(self, GenerateRequest(tuple(prompt), sampling, max_tokens=max_tokens, **fields))

    def finish(self) -> None:
        for _ in range(2000):
            if not self.loop.turn():
                break
        assert (self.loop.waiting, self.loop.running) == (0, 0)
        assert self.loop._table.free == self.limits.slots

    def check(self, *answers: Answer) -> None:
        """Hold answers to the plain way."""
        for answer in answers:
            assert answer.tokens() == self.words.continued(answer.request.prompt, answer.request.max_tokens)
            assert answer.last.finish == "length"
            assert answer.text() == self.words.tokenizer.decode(answer.tokens())


@pytest.fixture
def engine(words: Words) -> Engine:
    return Engine(words)


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
