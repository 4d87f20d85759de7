"""Do two arms differ by more than seeds do? Paired by seed: a seed is a replicate, a token is not."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

ENOUGH_SEEDS = 5
"""With fewer pairs nothing counts as settled, whatever the p-value: a t interval of three rests on its assumptions."""
LEVEL = 0.05


@dataclass(frozen=True)
class Paired:
    """Differences of two arms by seed, `first - second`, and what can be said of their mean.

    The interval is that of Student's t at 95 %; it and `p` are None where there are fewer than two pairs, or no spread.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None
    t: float | None
    p: float | None

    @property
    def is_settled(self) -> bool:
        """Whether the sign of the difference is known: enough seeds, and an interval without 0."""
        return len(self.seeds) >= ENOUGH_SEEDS and self.p is not None and self.p < LEVEL

    @property
    def verdict(self) -> str:
        """What the pairs come to, in words."""
        seeds = len(self.seeds)
        if not seeds:
            return "not settled: no seed that both arms have"
        if self.is_settled and self.mean is not None:
            lower, higher = (self.first, self.second) if self.mean < 0 else (self.second, self.first)
            return f"{lower} is lower than {higher} ({seeds} pairs)"
        reasons = []
        if seeds < ENOUGH_SEEDS:
            reasons.append(f"{seeds} pair{'s' if seeds > 1 else ''}, at least {ENOUGH_SEEDS} are needed")
        if self.p is not None and self.p >= LEVEL:
            reasons.append(f"p = {self.p:.2g}, the interval holds 0")
        if self.p is None and seeds >= ENOUGH_SEEDS:
            reasons.append("all pairs are alike")
        return f"not settled: {'; '.join(reasons)}"


def compare_arms(first: str, second: str, firsts: dict[int, float], seconds: dict[int, float]) -> Paired:
    """Compare two arms on the seeds that both have; the values are one number for each seed."""
    seeds = tuple(sorted(firsts.keys() & seconds.keys()))
    differences = tuple(firsts[seed] - seconds[seed] for seed in seeds)
    mean = float(np.mean(differences)) if seeds else None
    if len(seeds) < 2 or np.ptp(differences) == 0:
        return Paired(first, second, seeds, differences, mean, None, None, None)
    tested = stats.ttest_1samp(differences, 0.0)
    low, high = tested.confidence_interval(1 - LEVEL)
    interval = (float(low), float(high))
    return Paired(first, second, seeds, differences, mean, interval, float(tested.statistic), float(tested.pvalue))
