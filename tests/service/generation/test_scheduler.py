"""Decisions about steps, slots, prefixes and the queue, from tables and a clock that is moved by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.generation.limits import GenerationLimits
from service.engine.generation.prefixes import MOST_MARKS, Mark, Prefix, SlotRecord, choose_slot, find_prefix
from service.engine.generation.queue import FairQueue
from service.engine.generation.request import GenerateRequest
from service.engine.generation.scheduler import Chunk, Prompt, plan_exchanges, plan_prefill
from service.engine.generation.sequence import Sequence
from service.errors import Overloaded

LOGITS = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("prompts", "decoding", "step_tokens", "expected"),
    [
        ([], 3, 8, None),
        ([Prompt(2, 0, 5)], 0, 8, Chunk(2, (5,))),
        ([Prompt(2, 0, 50)], 0, 8, Chunk(2, (8,))),
        ([Prompt(2, 8, 42)], 3, 8, Chunk(2, (5,))),
        ([Prompt(2, 8, 42)], 9, 8, Chunk(2, (1,))),  # decoding alone is more than a step's tokens
        ([Prompt(2, 0, 50, split=3)], 0, 8, Chunk(2, (3,))),
        ([Prompt(2, 3, 47, split=3)], 0, 8, Chunk(2, (8,))),
        ([Prompt(0, 8, 42), Prompt(1, 0, 3)], 0, 8, Chunk(1, (3,))),  # the shorter first
        ([Prompt(0, 8, 42, passed_over=4), Prompt(1, 0, 3)], 0, 8, Chunk(0, (8,))),
        ([Prompt(0, 0, 3), Prompt(1, 0, 2), Prompt(2, 0, 2)], 0, 9, Chunk(0, (3, 2, 2))),
        ([Prompt(0, 0, 3), Prompt(1, 0, 2), Prompt(2, 0, 2)], 0, 8, Chunk(0, (3, 2))),
        ([Prompt(0, 0, 2), Prompt(2, 0, 2)], 0, 8, Chunk(0, (2,))),  # not side by side
        ([Prompt(0, 0, 2), Prompt(1, 1, 2)], 0, 8, Chunk(0, (2,))),  # one has begun before
        ([Prompt(0, 0, 1), Prompt(1, 0, 20)], 0, 90, Chunk(0, (1, 20))),
        ([Prompt(0, 0, 1), Prompt(1, 0, 20), Prompt(2, 0, 1)], 0, 90, Chunk(0, (1, 20))),  # more would be padding
    ],
)
def test_chunks(prompts: list[Prompt], decoding: int, step_tokens: int, expected: Chunk | None) -> None:
    assert plan_prefill(prompts, decoding, step_tokens) == expected


@given(st.data())
def test_a_chunk_keeps_the_budget_and_every_prompt_comes_to_its_end(data: st.DataObject) -> None:
    slots = data.draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    lefts = {slot: data.draw(st.integers(1, 30)) for slot in slots}
    lengths, passed = dict.fromkeys(slots, 0), dict.fromkeys(slots, 0)
    budget, decoding = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 4))
    for _ in range(sum(lefts.values()) + 1):
        prompts = [Prompt(slot, lengths[slot], lefts[slot], 0, passed[slot]) for slot in slots if lefts[slot]]
        chunk = plan_prefill(prompts, decoding, budget)
        if chunk is None:
            break
        rows = range(chunk.first, chunk.first + len(chunk.counts))
        assert len(rows) * max(chunk.counts) <= max(1, budget - decoding)
        assert len(rows) == 1 or all(lengths[slot] == 0 for slot in rows)
        for slot, count in zip(rows, chunk.counts, strict=True):
            assert 0 < count <= lefts[slot]
            lengths[slot] += count
            lefts[slot] -= count
        passed = {slot: 0 if slot in rows else passed[slot] + 1 for slot in slots}
    assert not any(lefts.values())


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_rows_that_decode_come_to_lie_together(decoding: set[int], prefilling: set[int]) -> None:
    prefilling -= decoding
    after = set(decoding)
    for source, target in plan_exchanges(decoding, prefilling):
        assert source in after
        assert target not in after | prefilling
        after = after - {source} | {target}
    free = [slot for slot in range(20) if slot not in prefilling]
    assert after == set(free[: len(decoding)])


def record(
    tokens: list[int], marks: dict[int, Mark] | None = None, *, taken: bool = False, used: int = 0
) -> SlotRecord:
    return SlotRecord(np.array([*tokens, 99, 99]), len(tokens), marks or {}, taken, used)


PLAIN, FULL = Mark(()), Mark((), LOGITS)


@pytest.mark.parametrize(
    ("records", "needs_marks", "expected"),
    [
        ([record([])], False, Prefix(-1, 0, None, 0)),
        ([record([9, 1])], False, Prefix(-1, 0, None, 0)),
        ([record([1, 2, 9]), record([1, 9])], False, Prefix(0, 2, None, 2)),
        ([record([1, 2, 3, 4, 5])], False, Prefix(0, 3, None, 4)),  # one token must be computed
        ([record([1, 2, 3, 4, 5], {4: FULL})], True, Prefix(0, 4, FULL, 4)),  # unless its logits are known
        ([record([1, 2, 3, 4, 5], {4: PLAIN})], True, Prefix(-1, 0, None, 4)),
        ([record([1, 2, 3, 9], {2: PLAIN, 4: FULL})], True, Prefix(0, 2, PLAIN, 3)),
        ([record([1, 2, 3]), record([1, 2], {1: PLAIN})], True, Prefix(1, 1, PLAIN, 3)),
    ],
)
def test_prefixes(records: list[SlotRecord], needs_marks: bool, expected: Prefix) -> None:
    assert find_prefix(records, np.array([1, 2, 3, 4]), needs_marks=needs_marks) == expected


def test_a_slot_is_taken_over_only_where_nothing_longer_is_lost() -> None:
    records = [record([1, 2], used=5), record([1, 2, 3], used=6), record([4], used=3), record([], taken=True)]
    assert choose_slot(records, Prefix(0, 2, None, 2)) == 0
    assert choose_slot(records, Prefix(1, 2, None, 2)) == 2
    assert choose_slot(records, Prefix(-1, 0, None, 0)) == 2
    assert choose_slot(records, Prefix(3, 0, None, 0)) == 2


def test_records_keep_their_newest_marks_and_cut_what_is_gone() -> None:
    slot = SlotRecord(np.zeros(20, np.int64))
    for token in range(MOST_MARKS + 2):
        slot.append([token])
        slot.mark(PLAIN)
    assert sorted(slot.marks) == [3, 4, 5, 6]
    other = record([7] * 8)
    other.copy_from(slot, 4)
    assert (other.tokens[: other.length].tolist(), sorted(other.marks)) == ([0, 1, 2, 3], [3, 4])


class Line:
    """A queue, and sequences by short names."""

    def __init__(self, **limits: Any) -> None:
        self.queue = FairQueue(GenerationLimits(**limits))

    def add(self, caller: str, *, now: float = 0.0, tokens: int = 10, **fields: Any) -> Sequence:
        request = GenerateRequest((1,) * tokens, max_tokens=10, caller=caller, **fields)
        sequence = Sequence(request, 0, None, lambda event: None, now=now)
        self.queue.add([sequence])
        return sequence

    def order(self, now: float = 0.0) -> str:
        found = ""
        while (sequence := self.queue.next(now)) is not None:
            found += sequence.request.caller
        return found


def test_callers_take_turns_and_a_late_one_does_not_catch_up() -> None:
    line = Line()
    for caller in "aaaabb":
        line.add(caller)
    assert [line.queue.next(0.0).request.caller for _ in range(3)] == ["a", "b", "a"]  # type: ignore[union-attr]
    line.add("c")
    line.add("c")
    assert line.order() == "bcaca"


def test_turns_are_counted_in_tokens_and_what_was_not_used_is_given_back() -> None:
    line = Line()
    line.add("a", tokens=30)
    for caller in "abbb":
        line.add(caller)
    assert line.order() == "abbab"
    line = Line()
    first = line.add("a")
    assert line.queue.next(0.0) is first
    for caller in "aabb":
        line.add(caller)
    line.queue.ended(first)  # without a single token: ten of its twenty come back
    assert line.order() == "baba"


def test_higher_levels_go_first_and_patience_lifts_the_others() -> None:
    line = Line(patience_seconds=10.0)
    line.add("l", now=0.0, priority=3)
    for number in range(3):
        line.add("h", now=15.0 + number, priority=1)
        line.add("d", now=15.0 + number)
    assert line.queue.next(19.0).request.caller == "h"  # type: ignore[union-attr]
    assert line.queue.next(21.0).request.caller == "l"  # type: ignore[union-attr]
    assert line.order(21.0) == "hhddd"


def test_the_gone_and_the_late_are_taken_out() -> None:
    line = Line()
    gone, late, other = line.add("g"), line.add("t", deadline_seconds=5.0), line.add("o", deadline_seconds=5.1)
    gone.is_cancelled = True
    assert line.queue.sweep(4.9) == ([gone], [])
    assert line.queue.sweep(5.0) == ([], [late])
    assert (len(line.queue), line.queue.tokens) == (1, other.cost)


def test_who_may_not_start_lets_the_next_pass() -> None:
    line = Line()
    first, second = line.add("a"), line.add("b")
    assert line.queue.next(0.0, lambda sequence: sequence is not first) is second
    assert line.queue.next(0.0, lambda sequence: False) is None
    assert line.queue.clear() == [first]
    assert line.queue.tokens == 0


def test_too_many_answers_or_tokens_are_refused_with_a_time_to_wait() -> None:
    line = Line(queue_limit=2, queue_tokens=1000)
    line.add("a")
    with pytest.raises(Overloaded, match="1 answers of up to 20 tokens wait already"):
        line.add("b", tokens=971)
    line.queue.measured(100, 50.0)  # a twentieth of a second per token, smoothed
    line.add("b", tokens=90)
    with pytest.raises(Overloaded) as caught:
        line.add("c")
    assert caught.value.details["retry_after_seconds"] == 6
    assert len(line.queue) == 2
    line.order()
    assert not line.queue._given.keys() - {"a", "b"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"slots": 0}, "slots must be at least 1, not 0"), ({"queue_tokens": -1}, "queue_tokens must not be negative")],
)
def test_limits_are_held_to_their_ranges(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationLimits(**limits)
