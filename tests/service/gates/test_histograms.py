"""Bulk counting equals one `observe` for each value."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from service.errors import InvalidFields
from service.gates.live.budget import Budget
from service.gates.live.figures import gate_figures
from service.gates.live.histograms import BUCKETS, EDGES, GateCounts, count_gates, quantile, regime_counts
from service.gates.live.live import LiveGates
from service.gates.live.windows import parse_window
from service.metrics import Metrics
from tests.service.fakes import ManualClock
from tests.service.gates.live_gates import gates

EXACT = [0.0, 2.0, *EDGES, *BUCKETS, *np.nextafter(np.array(BUCKETS, np.float32), np.float32(0)).tolist()]
"""Values on edges and right beside them, where bins are easily got wrong."""


def values(sites: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    drawn = 2 / (1 + np.exp(-generator.normal(0, 2, (sites, 500))))
    return np.concatenate([drawn, np.tile(EXACT, (sites, 1))], 1).astype(np.float32)


def test_buckets_equal_prometheus_observations() -> None:
    beta = values(4)
    live = LiveGates(gates(4), None, Budget(1.0))
    live.take(dict(zip(gates(4).outputs["beta"], beta[:, None], strict=True)), 1, 0.0)
    registry = CollectorRegistry()
    histogram = Histogram(
        "ddl_gate_beta",
        "Gates of ordinary traffic, sampled.",
        ("model", "version", "layer", "sublayer"),
        buckets=BUCKETS,
        registry=registry,
    )
    for site, row in zip(gates(4).sites, beta, strict=True):
        for value in row.tolist():
            histogram.labels("m", "1", str(site.layer), site.sublayer).observe(value)
    ours = Metrics()
    ours.gates.watch_live(lambda: [gate_figures("m", "1", live)])
    rendered, _ = ours.render("text/plain")

    def lines(text: bytes) -> dict[str, float]:
        found = (line.rsplit(" ", 1) for line in text.decode().splitlines() if line.startswith("ddl_gate_beta_"))
        return {name: pytest.approx(float(value), rel=1e-12) for name, value in found}

    assert lines(rendered) == lines(generate_latest(registry))
    assert len(lines(rendered)) == 4 * (len(BUCKETS) + 1 + 2)  # the buckets, sum and count of each site


def test_fine_bins_equal_numpy() -> None:
    beta = values(3)
    counts = count_gates(beta)
    for row, fine in zip(beta, counts.fine, strict=True):
        np.testing.assert_array_equal(fine, np.histogram(row, EDGES)[0])
    assert counts.fine.sum() == beta.size
    np.testing.assert_allclose(counts.sums, beta.sum(1, dtype=np.float64))
    np.testing.assert_array_equal(counts.saturated, np.stack([(beta < 0.01).sum(1), (beta > 1.99).sum(1)], 1))


def test_regimes_are_those_of_the_gate() -> None:
    beta = values(2)
    expected = np.histogram(beta[0], [0, 0.25, 0.75, 1.25, 2])[0]
    np.testing.assert_array_equal(regime_counts(count_gates(beta).fine)[0], expected)


def test_counts_of_a_batch_are_the_sum_of_those_of_its_items() -> None:
    beta = values(3)
    whole, parts = count_gates(beta), GateCounts.zero(3)
    for start in range(0, beta.shape[1], 100):
        parts.add(count_gates(beta[:, start : start + 100]))
    for name in ("fine", "buckets", "saturated"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    np.testing.assert_allclose(parts.sums, whole.sums)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    beta = values(2)
    spoiled = beta.copy()
    spoiled[0, :3] = [np.nan, np.inf, -np.inf]
    counts, rest = count_gates(spoiled), count_gates(beta[:1, 3:])
    assert counts.nonfinite == 3
    np.testing.assert_array_equal(counts.fine[0], rest.fine[0])
    np.testing.assert_array_equal(counts.saturated[0], rest.saturated[0])


def test_quantiles_are_off_by_a_bin_at_most() -> None:
    beta = values(1)
    fine = count_gates(beta).fine[0]
    for q in (0.0, 0.05, 0.5, 0.95, 1.0):
        assert quantile(fine, q) == pytest.approx(np.quantile(beta, q), abs=1 / 32)


def test_time_that_may_be_spent() -> None:
    clock = ManualClock()
    budget = Budget(0.02, clock)
    assert budget.allows()
    budget.spend(1.05)
    looks = 0
    for _ in range(1000):
        clock.now += 1.0
        if budget.allows():
            looks += 1
            budget.spend(1.0)
    assert looks == pytest.approx(1000 * 0.02, abs=2)
    assert not Budget(0.0, clock).allows()


@pytest.mark.parametrize("text", ["", "0m", "61m", "25h", "1d", "1.5h", "-5m", "5 m", "५m"])
def test_windows_that_there_are_not(text: str) -> None:
    with pytest.raises(InvalidFields, match="1m to 60m or 1h to 24h"):
        parse_window(text)
