"""Sampling against its definitions: what remains to be drawn, how often it is drawn, and with which luck."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.engine.generation.history import TokenHistory
from service.engine.generation.request import SamplingParams
from service.engine.generation.sampling import Sampler, candidates, find, largest_tokens, log_probabilities, nucleus

# Few different values, so that there are ties; sometimes many tokens, so that blocks are searched.
LOGITS = st.one_of(
    arrays(np.float32, st.integers(1, 40), elements=st.integers(-6, 6).map(np.float32)),
    arrays(np.float32, st.integers(600, 700), elements=st.integers(-3, 9).map(np.float32), fill=st.just(np.float32(0))),
)


def sampler(logits: Any = (), choice: int = 0, prompt: tuple[int, ...] = (), **params: Any) -> Sampler:
    given_params = SamplingParams(**params)
    return Sampler(given_params, choice, TokenHistory(prompt, 100) if given_params.has_penalties else None)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights / weights.sum()


@given(LOGITS, st.integers(1, 800))
def test_the_largest_are_those_of_a_full_sort(logits: np.ndarray, count: int) -> None:
    expected = sorted(sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:count])
    assert largest_tokens(logits, count).tolist() == expected


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_a_share_is_found_where_the_sum_passes_it(logits: np.ndarray, share: float) -> None:
    weights = np.maximum(logits, 0).astype(np.float32)
    if not weights.any():
        weights[len(weights) // 2] = 1
    sums = weights.cumsum(dtype=np.float64)
    place = find(weights, share)
    assert weights[place] > 0
    assert sums[place] >= share * sums[-1] >= sums[place] - weights[place]  # whole numbers: exact


def test_a_nucleus_of_many_tokens_is_found_among_all_of_them() -> None:
    flat, steep = np.linspace(0.5, 1.0, 9000), np.exp(-np.linspace(0.0, 9.0, 9000))
    for top_p, values in itertools.product((0.01, 0.12, 0.3, 0.9, 0.999), (flat, steep, np.repeat(flat[::60], 60))):
        weights = np.random.default_rng(0).permutation(values).astype(np.float32)
        kept = nucleus(weights, top_p)
        least = weights[kept].min()
        assert weights[~kept].max() <= least
        assert weights[kept].sum(dtype=np.float64) >= top_p * weights.sum(dtype=np.float64)
        assert weights[kept].sum(dtype=np.float64) - least < top_p * weights.sum(dtype=np.float64)


@given(LOGITS, st.floats(0.001, 0.999))
def test_the_nucleus_is_the_fewest_likeliest_tokens_with_that_probability(logits: np.ndarray, top_p: float) -> None:
    weights = softmax(logits)
    kept = nucleus(weights, top_p).nonzero()[0]
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    assert sorted(order[: len(kept)]) == kept.tolist()
    assert weights[kept].sum() >= top_p - 1e-9
    assert weights[order[: len(kept) - 1]].sum() < top_p + 1e-9


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 1}, [0]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 1e-9}, [0]),
        ({"top_p": 0.39}, [0]),
        ({"top_p": 0.41}, [0, 1]),
        ({"top_p": 0.71}, [0, 1, 2]),
        ({"top_p": 0.9999}, [0, 1, 2, 3]),
        ({"min_p": 0.49}, [0, 1, 2]),
        ({"min_p": 0.6}, [0, 1]),
        ({"min_p": 1.0}, [0]),
        ({"top_k": 2, "top_p": 0.56}, [0]),  # 0.4 of 0.7, which is all that top-k leaves
        ({"top_k": 2, "top_p": 0.58}, [0, 1]),
        ({"min_p": 0.49, "top_p": 0.41}, [0, 1]),
        ({"temperature": 1e-300}, [0]),
    ],
)
def test_edges_of_what_remains(params: dict[str, Any], expected: list[int]) -> None:
    tokens, weights = candidates(np.log(np.float32([0.4, 0.3, 0.2, 0.1])), SamplingParams(**params))
    assert tokens[weights > 0].tolist() == expected


def test_equal_logits_are_kept_in_their_order() -> None:
    tokens, weights = candidates(np.zeros(5, np.float32), SamplingParams(top_p=0.5))
    assert tokens.tolist() == [0, 1, 2]
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert candidates(np.zeros(5, np.float32), SamplingParams(top_k=2))[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1},
    ],
)
def test_tokens_come_as_often_as_their_probability_says(params: dict[str, Any]) -> None:
    logits = np.random.default_rng(2).normal(size=10).astype(np.float32)
    tokens, weights = candidates(logits, SamplingParams(**params))
    expected = np.zeros(10)
    expected[tokens] = weights / weights.sum()
    if params.keys() <= {"temperature"}:
        np.testing.assert_allclose(expected, softmax(logits, params.get("temperature", 1.0)), rtol=1e-6)
    draws, luck = 6000, sampler(seed=4, **params)
    counts = np.bincount([luck.draw(logits, place) for place in range(draws)], minlength=10)
    assert counts[expected == 0].sum() == 0
    # Five standard deviations of each count.
    np.testing.assert_array_less(np.abs(counts - draws * expected), 5 * np.sqrt(draws * expected * (1 - expected)) + 1)


def test_chance_follows_from_seed_choice_and_place_alone() -> None:
    logits = np.zeros(1000, np.float32)

    def drawn(seed: int | None, choice: int, places: range) -> list[int]:
        luck = sampler(seed=seed, choice=choice)
        return [luck.draw(logits, place) for place in places]

    first = drawn(7, 0, range(20))
    assert drawn(7, 0, range(20)) == first
    assert drawn(7, 0, range(10, 20)) == first[10:]
    assert len({*map(tuple, (first, drawn(8, 0, range(20)), drawn(7, 1, range(20)), drawn(-7, 0, range(20))))}) == 4
    assert drawn(None, 0, range(20)) != drawn(None, 0, range(20))
    # A seed that was noted down gives its text again in every release: BLAKE2b of the place, key (seed, choice).
    assert first[:6] == [805, 780, 958, 923, 905, 241]


@given(LOGITS, st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_penalties_are_those_of_their_formulas(logits: np.ndarray, prompt: list[int], answer: list[int]) -> None:
    prompt, answer = ([token for token in tokens if token < len(logits)] for tokens in (prompt, answer))
    params = SamplingParams(repetition_penalty=1.3, frequency_penalty=0.25, presence_penalty=-0.5)
    history = TokenHistory(prompt, len(answer))
    for token in answer:
        history.add(token)
    actual = logits.copy()
    history.penalise(actual, params)
    counts = Counter(answer)
    for token, logit in enumerate(logits):
        expected = float(logit)
        if token in {*prompt, *answer}:
            expected = expected / 1.3 if expected > 0 else expected * 1.3
        expected -= 0.25 * counts[token] - 0.5 * (counts[token] > 0)
        assert actual[token] == pytest.approx(expected, abs=1e-5)


def test_penalties_bias_and_forbidden_tokens_change_the_choice_and_not_the_logits() -> None:
    logits = np.float32([1.0, 3.0, 2.0, 0.0])
    kept = logits.copy()
    greedy = {"temperature": 0.0}
    assert sampler(**greedy).takes_largest
    assert sampler(**greedy).draw(logits, 0) == 1
    assert sampler(**greedy).draw(logits, 0, {1}) == 2
    assert sampler(**greedy, logit_bias={3: 5.0, 1: -1.0}).draw(logits, 0) == 3
    assert sampler(**greedy, repetition_penalty=2.0, prompt=(1,)).draw(logits, 0) == 2
    often = sampler(**greedy, frequency_penalty=0.6)
    found = []
    for place in range(5):
        found.append(often.draw(logits, place))
        often.took(found[-1])
    assert found == [1, 1, 2, 1, 2]
    assert np.array_equal(logits, kept)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_is_allowed_that_is_said(temperature: float) -> None:
    with pytest.raises(ValueError, match="no token is allowed"):
        sampler(temperature=temperature).draw(np.zeros(2, np.float32), 0, {0, 1})
    for broken in (np.nan, np.inf):
        with pytest.raises(ValueError, match="the logits are no numbers"):
            sampler(temperature=temperature).draw(np.float32([0, broken, 1]), 0)


@given(LOGITS, st.data())
def test_log_probabilities_are_the_log_softmax(logits: np.ndarray, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    top = data.draw(st.integers(0, min(5, len(logits))))
    own, best = log_probabilities(logits, token, top)
    expected = np.log(softmax(logits))
    assert own == pytest.approx(expected[token], abs=1e-5)
    order = sorted(range(len(logits)), key=lambda t: (-logits[t], t))[:top]
    assert [t for t, _ in best] == order
    assert [value for _, value in best] == pytest.approx([expected[t] for t in order], abs=1e-5)
