"""Counting gates into fixed bins, many values at once: a call for each value costs a hundred times as much."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Sums = NDArray[np.float64]

BINS = 64
EDGES = tuple(index / 32 for index in range(BINS + 1))
"""Edges of the fine bins on [0, 2]: the lower one belongs to a bin, the upper one to the next, 2 to the last."""

BUCKETS = (*(round(0.1 * index, 1) for index in range(1, 20)), 2.0)
"""Upper edges of the coarse bins, which belong to them, as Prometheus has it; above the last is one more bin."""

REGIMES = ("skip", "partial", "match", "over")
REGIME_EDGES = (0.25, 0.75, 1.25)
"""Where one regime of the gate ends and the next begins; all are edges of fine bins."""

SATURATED = (0.01, 1.99)
"""A gate below the first or above the second has no gradient to speak of."""


def _largest_below(edge: float) -> np.float32:
    nearest = np.float32(edge)
    return nearest if float(nearest) <= edge else np.nextafter(nearest, np.float32(0))


# Gates are float32: one is at most an edge exactly if it is at most the largest float32 that is.
_BUCKETS_FLOAT32 = np.array([_largest_below(edge) for edge in BUCKETS])
_REGIME_BINS = tuple(round(edge * BINS / 2) for edge in REGIME_EDGES)


@dataclass
class GateCounts:
    """Histograms of the gates of each site, (site, bin); `saturated` is (site, below and above)."""

    fine: Counts
    buckets: Counts
    saturated: Counts
    sums: Sums
    nonfinite: int = 0

    @classmethod
    def zero(cls, sites: int) -> "GateCounts":
        """Return the counts of no value."""
        fine, buckets, saturated = (np.zeros((sites, bins), np.int64) for bins in (BINS, len(BUCKETS) + 1, 2))
        return cls(fine, buckets, saturated, np.zeros(sites, np.float64))

    def add(self, other: "GateCounts") -> None:
        """Count the values of another as well."""
        self.fine += other.fine
        self.buckets += other.buckets
        self.saturated += other.saturated
        self.sums += other.sums
        self.nonfinite += other.nonfinite


def count_gates(values: NDArray[np.float32]) -> GateCounts:
    """Return the histograms of gates (site, value); what is not finite is only counted."""
    sites = len(values)
    finite = np.isfinite(values)
    kept = finite.ravel() if not finite.all() else slice(None)
    flat = values.ravel()[kept]
    site = np.repeat(np.arange(sites), values.shape[1])[kept]
    # Times a power of two is exact, so a value on an edge comes to the bin above it.
    fine = np.clip((flat * np.float32(BINS / 2)).astype(np.int64), 0, BINS - 1)
    bucket = np.searchsorted(_BUCKETS_FLOAT32, flat, side="left")
    zeroed = values if finite.all() else np.where(finite, values, np.float32(1.0))
    return GateCounts(
        _histograms(site, fine, sites, BINS),
        _histograms(site, bucket, sites, len(BUCKETS) + 1),
        np.stack([(zeroed < SATURATED[0]).sum(1), (zeroed > SATURATED[1]).sum(1)], 1),
        np.bincount(site, flat, minlength=sites).astype(np.float64),
        int(finite.size - finite.sum()),
    )


def regime_counts(fine: Counts) -> Counts:
    """Return (site, regime) from fine bins (site, bin)."""
    return np.add.reduceat(fine, (0, *_REGIME_BINS), axis=-1)


def quantile(fine: Counts, q: float) -> float:
    """Return a quantile of one site, linear inside its bin: off by at most a bin's width, 1/32."""
    below = np.cumsum(fine)
    wanted = q * below[-1]
    index = int(np.searchsorted(below, wanted, side="left"))
    before = below[index - 1] if index else 0
    return float((index + (wanted - before) / max(1, fine[index])) * 2 / BINS)


def _histograms(site: Counts, index: Counts, sites: int, bins: int) -> Counts:
    return np.bincount(site * bins + index, minlength=sites * bins).reshape(sites, bins)
