"""Fixed bins for each quantity, so that histograms of batches, runs and live traffic add up and compare."""

from dataclasses import dataclass

import torch
from torch import Tensor

BETA_BINS = 64
REGIMES = ("skip", "partial", "match", "over")
REGIME_BINS = (8, 24, 40)
"""Where regimes of the gate begin among the bins of beta: at 0.25, 0.75 and 1.25."""


@dataclass(frozen=True)
class Bins:
    """Bins between `low` and `high`, of equal width or, on a log scale, ratio; the outer ones take the rest."""

    low: float
    high: float
    count: int = BETA_BINS
    log: bool = False

    def edges(self) -> Tensor:
        """Return count + 1 edges."""
        if self.log:
            return torch.logspace(_log10(self.low), _log10(self.high), self.count + 1, dtype=torch.float64)
        return torch.linspace(self.low, self.high, self.count + 1, dtype=torch.float64)

    def index(self, values: Tensor) -> Tensor:
        """Return the bin of each value, which must be finite; an edge belongs to the bin above it."""
        if self.log:
            found = torch.bucketize(values.double(), self.edges()[1:-1], right=True)
        else:
            found = ((values.double() - self.low) * (self.count / (self.high - self.low))).long()
        return found.clamp(0, self.count - 1)

    def quantile(self, counts: Tensor, q: float) -> float:
        """Return a quantile of a histogram, linear inside its bin."""
        below = counts.double().cumsum(0)
        wanted = q * float(below[-1])
        place = int(torch.searchsorted(below, torch.tensor(wanted, dtype=torch.float64)).clamp(max=self.count - 1))
        before = float(below[place - 1]) if place else 0.0
        inside = (wanted - before) / max(1.0, float(counts[place]))
        edges = self.edges()
        return float(edges[place] + inside * (edges[place + 1] - edges[place]))


def _log10(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log10())


_POSITIVE = Bins(1e-4, 1e4, 96, log=True)
AUDITED: dict[str, Bins] = {
    "beta": Bins(0.0, 2.0),
    "e_pre_norm": _POSITIVE,
    "e_post_norm": _POSITIVE,
    "erase_norm": _POSITIVE,
    "write_norm": _POSITIVE,
    "balance": Bins(-1.0, 1.0),
    "update_ratio": _POSITIVE,
    "survival": Bins(0.0, 1.0),
    "embedding_kept": Bins(0.0, 1.0),
}
"""The quantities of an audit, by the names of the gates API."""
