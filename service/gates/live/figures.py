"""Live statistics as Prometheus wants them."""

import numpy as np

from service.gates.drift import STATUSES
from service.gates.live.histograms import BUCKETS, REGIMES, regime_counts
from service.gates.live.live import LiveGates
from service.metrics.gates import GateFigures, SiteFigures

_UPPER = (*(str(float(edge)) for edge in BUCKETS), "+Inf")


def gate_figures(name: str, version: str, live: LiveGates) -> GateFigures:
    """Return what a scrape shows of one model version."""
    totals = live.totals()
    counts, judgement = totals.counts, totals.judgement
    cumulative = np.cumsum(counts.buckets, 1)
    regimes = regime_counts(counts.fine)
    sites = []
    for site in live.gates.sites:
        row = site.index
        drift = None
        if judgement.w1 is not None and judgement.thresholds is not None:
            drift = (float(judgement.w1[row]), float(judgement.thresholds[row]))
        sites.append(
            SiteFigures(
                site.layer,
                site.sublayer,
                list(zip(_UPPER, cumulative[row].astype(float).tolist(), strict=True)),
                float(counts.sums[row]),
                list(zip(REGIMES, regimes[row].tolist(), strict=True)),
                list(zip(("0", "2"), counts.saturated[row].tolist(), strict=True)),
                drift,
            )
        )
    statuses = [(status, int(status == judgement.status)) for status in STATUSES]
    return GateFigures(name, version, totals.runs, totals.sequences, counts.nonfinite, statuses, sites)
