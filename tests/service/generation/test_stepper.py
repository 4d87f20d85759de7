"""Steps on slots: any split of a prompt, any company and any move from slot to slot give what the whole text gives."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.generation.cache_slots import CacheSlots
from service.errors import ModelFailed
from tests.service.generation.conftest import Words

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
"""Float32 through one narrow layer, added up in another order: differences stay near 1e-6."""
TEXT = np.random.default_rng(8).integers(1, 270, 24).tolist()


@given(cuts=st.sets(st.integers(1, 23)), row=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_any_split_of_a_prompt_is_the_whole_prompt(words: Words, cuts: set[int], row: int) -> None:
    stepper, bounds = words.stepper(3, 24), [0, *sorted(cuts), 24]
    for start, stop in pairwise(bounds):
        logits = stepper.prefill(row, [TEXT[start:stop]], start, [True])
        np.testing.assert_allclose(logits, words.logits(TEXT)[stop - 1 : stop], **CLOSE)


def test_rows_of_different_lengths_go_on_together_and_may_wait(words: Words) -> None:
    stepper, texts = words.stepper(4, 24), [TEXT[:3], TEXT[5:15], TEXT[7:8]]
    logits = stepper.prefill(1, texts, 0, [True, False, True])
    np.testing.assert_allclose(logits[0], words.logits(texts[0])[-1], **CLOSE)
    np.testing.assert_allclose(logits[1], words.logits(texts[2])[-1], **CLOSE)
    for counts in ([1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0], [1, 1, 1]):
        lengths = [len(text) for text in texts]
        tokens = [TEXT[len(text)] for text in texts]
        logits = stepper.decode(tokens, lengths, counts, first=1)
        for row, count in enumerate(counts):
            if count:
                texts[row] = [*texts[row], tokens[row]]
                np.testing.assert_allclose(logits[row], words.logits(texts[row])[-1], **CLOSE)


def test_rows_that_are_steps_apart_decode_together(words: Words) -> None:
    """The histories of one row have changed places once more than those of the other."""
    stepper = words.stepper(2, 16)
    stepper.prefill(0, [TEXT[:4]], 0, [False])
    stepper.prefill(1, [TEXT[:2]], 0, [False])
    stepper.prefill(1, [TEXT[2:5]], 2, [False])
    logits = stepper.decode([TEXT[4], TEXT[5]], [4, 5], [1, 1])
    np.testing.assert_allclose(logits, words.logits(TEXT)[4:6], **CLOSE)


def test_copied_and_exchanged_rows_go_on_as_before(words: Words) -> None:
    stepper = words.stepper(3, 16)
    slots, other = stepper.slots, TEXT[10:13]
    stepper.prefill(0, [TEXT[:6]], 0, [False])
    histories = slots.histories(0)
    stepper.prefill(0, [TEXT[6:8]], 6, [False])
    stepper.prefill(2, [other], 0, [False])
    slots.copy(0, 1, 6)
    slots.restore(1, histories)
    slots.exchange(0, 2, (8, 3))
    logits = stepper.decode([TEXT[13], TEXT[6], TEXT[8]], [3, 6, 8], [1, 1, 1])
    np.testing.assert_allclose(logits[0], words.logits([*other, TEXT[13]])[-1], **CLOSE)
    np.testing.assert_allclose(logits[1:], words.logits(TEXT)[[6, 8]], **CLOSE)


def test_a_cleared_row_begins_a_text(words: Words) -> None:
    stepper = words.stepper(1, 8)
    stepper.prefill(0, [TEXT[8:15]], 0, [False])
    stepper.slots.clear(0)
    np.testing.assert_allclose(stepper.prefill(0, [TEXT[:2]], 0, [True])[0], words.logits(TEXT)[1], **CLOSE)


def test_a_step_writes_its_own_places_and_allocates_no_cache(words: Words) -> None:
    stepper = words.stepper(3, 12)
    keys = next(tensor for tensor in words.graph.cache if tensor.in_place)
    whole = stepper.slots.step_arrays(0, 3, 0)[0][keys.past]
    stepper.prefill(1, [TEXT[:4]], 0, [False])
    before = whole.copy()
    stepper.decode([TEXT[4]], [4], [1], first=1)
    assert np.isfinite(whole[1, :, :5]).all()
    assert np.array_equal(whole[1, :, :4], before[1, :, :4])
    assert np.isnan(whole[1, :, 5:]).all()
    assert np.isnan(whole[[0, 2]]).all()


def test_a_step_without_a_place_fails_and_leaves_the_rows_alone(words: Words) -> None:
    stepper = words.stepper(1, 4)
    stepper.prefill(0, [TEXT[:4]], 0, [False])
    with pytest.raises(ModelFailed, match="could not be run"):
        stepper.decode([TEXT[4]], [4], [1])
    np.testing.assert_allclose(stepper.decode([TEXT[3]], [3], [0])[0].shape, (270,))


def test_memory_is_what_the_layout_says(words: Words) -> None:
    slots = CacheSlots(words.graph.cache, 3, 10)
    # Keys and values of two heads of eight; two sets of the last three inputs of the convolution over 32 wide tokens.
    history = next(tensor for tensor in words.graph.cache if not tensor.in_place)
    assert slots.nbytes == 4 * 3 * (2 * 2 * 10 * 8 + 2 * int(np.prod(history.shape)))
    assert slots.keeps_histories
    assert not CacheSlots(words.graph.cache[:2], 1, 1).keeps_histories


def test_arrays_that_cannot_be_bound_are_refused(words: Words) -> None:
    array = np.zeros((4, 4), np.int64)
    with pytest.raises(ValueError, match="'input_ids' is not C-contiguous"):
        words.session.bind({"input_ids": array[:, :2]}, {})
