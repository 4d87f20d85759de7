"""A reference that an audit writes, and the drift that the service finds with it."""

import numpy as np
import pytest

from ddl_model.audit import bins, reference
from service.gates.drift import alarm_sites, judge, wasserstein
from service.gates.live import histograms
from service.gates.reference import Reference
from tests.service.gates.live_gates import SITES, TOKENS, by_text, reference_of, sites, texts

WINDOW = 50


@pytest.fixture(scope="module")
def compared() -> Reference:
    """Return the reference of 1,000 texts."""
    counts = by_text(texts(1000, seed=0))
    names = tuple(site.name for site in sites(SITES))
    return reference_of(
        reference.make_reference(
            counts, names, name="m", created="2026-01-01", weights="0" * 64, data=("texts", "ab" * 32)
        )
    )


def windows(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Return the histograms (window, site, bin) of windows of texts that the reference never saw."""
    many = by_text(texts(count * WINDOW, seed=seed, shift=shift))
    return many.reshape(count, WINDOW, SITES, -1).sum(1)


def statuses(found: np.ndarray, compared: Reference) -> list[str]:
    return [judge(counts, WINDOW, WINDOW * TOKENS, compared).status for counts in found]


def test_bins_agree_between_the_audit_and_the_service() -> None:
    assert tuple(bins.AUDITED["beta"].edges().tolist()) == histograms.EDGES
    assert bins.REGIMES == histograms.REGIMES
    assert tuple(edge * 2 / bins.BETA_BINS for edge in bins.REGIME_BINS) == histograms.REGIME_EDGES


def test_traffic_like_the_reference_raises_no_alarm(compared: Reference) -> None:
    found = statuses(windows(500, seed=1), compared)
    assert found.count("drift") <= 0.02 * len(found)
    assert found.count("ok") >= 0.8 * len(found)


def test_other_traffic_is_noticed(compared: Reference) -> None:
    found = statuses(windows(60, seed=2, shift=0.2), compared)
    assert found.count("drift") >= 0.95 * len(found)


def test_tokens_that_are_no_texts_would_alarm_all_the_time(compared: Reference) -> None:
    """The mistake that the bootstrap of whole sequences avoids: it must be one, or the test above proves nothing."""
    whole = np.array(compared.counts)
    generator = np.random.default_rng(3)
    drawn = np.stack([generator.multinomial(WINDOW * TOKENS, row / row.sum(), 2000) for row in whole], 1)
    independent = np.quantile(wasserstein(drawn, whole), 0.999, axis=0)
    found = wasserstein(windows(100, seed=4), whole) > independent
    assert found.any(1).mean() > 0.7


def test_thresholds_fall_as_windows_grow(compared: Reference) -> None:
    assert compared.windows == (10, 20, 50, 100)
    assert (np.diff(compared.thresholds, axis=0) < 0).all()


def test_what_cannot_be_compared_says_so(compared: Reference) -> None:
    few = windows(1, seed=5)[0]
    assert judge(few, WINDOW, WINDOW * TOKENS, None).status == "no_reference"
    assert judge(few, 9, WINDOW * TOKENS, compared).status == "too_few"
    assert judge(few, 10_000, 9 * TOKENS, compared).status == "too_few"


def test_one_site_is_watched_and_three_are_an_alarm(compared: Reference) -> None:
    whole = np.array(compared.counts)
    far = np.roll(whole, 8, axis=1)
    for moved, status in ((0, "ok"), (1, "watch"), (2, "watch"), (3, "drift")):
        mixed = np.concatenate([far[:moved], whole[moved:]])
        assert judge(mixed, WINDOW, WINDOW * TOKENS, compared).status == status
    assert [alarm_sites(count) for count in (1, 2, 12, 48)] == [1, 2, 3, 5]


def test_distance_is_how_far_the_gate_moved() -> None:
    whole = np.zeros((1, 64), np.int64)
    whole[0, 10] = 5
    assert wasserstein(np.roll(whole, 16, axis=1) * 3, whole) == pytest.approx(0.5)


def test_too_small_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="give 100"):
        reference.make_reference(
            np.ones((99, 1, 64), np.int64), ("0.attn",), name="m", created="", weights="", data=("d", "0" * 64)
        )
