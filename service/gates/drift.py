"""Has a site moved? Wasserstein-1 distance of live histograms from the reference's, and when it is more than chance.

The distance says by how much the gate moved on average, in units of beta. The thresholds were found by drawing whole
sequences of the reference: tokens of one text are far from independent, and thresholds for independent ones are so low
that nearly every window would alarm. A single site passes its threshold now and then; the alarm needs several.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.gates.live.histograms import BINS
from service.gates.reference import Reference

Status = Literal["ok", "watch", "drift", "no_reference", "too_few"]
STATUSES: tuple[Status, ...] = ("ok", "watch", "drift", "no_reference", "too_few")

_ALARM_SITES = 3
_ALARM_SHARE = 0.1

Histograms = NDArray[np.int64]
Distances = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """What a window comes to; distances and thresholds, one for each site, only where they could be compared."""

    status: Status
    w1: Distances | None = None
    thresholds: Distances | None = None

    @property
    def moved(self) -> NDArray[np.bool_]:
        """Which sites are farther away than chance explains."""
        assert self.w1 is not None
        assert self.thresholds is not None
        return self.w1 > self.thresholds


def wasserstein(counts: Histograms, others: Histograms) -> Distances:
    """Return the distances between histograms (..., bin) on [0, 2], which need not count as many values."""
    mine, theirs = (np.cumsum(side, -1) / np.maximum(1, side.sum(-1, keepdims=True)) for side in (counts, others))
    return np.asarray(np.abs(mine - theirs).sum(-1) * (2 / BINS))


def alarm_sites(sites: int) -> int:
    """Return how many sites must have moved for an alarm: 3, or a tenth where that is more; all of fewer than 3."""
    return min(sites, max(_ALARM_SITES, math.ceil(_ALARM_SHARE * sites)))


def independent_sequences(sequences: int, tokens: int, reference: Reference) -> int:
    """Return how many sequences of the reference's length a window is worth, at most as many as it has.

    Tokens of more texts say more than as many of one text, so both numbers are bounds from below.
    """
    per_sequence = reference.dataset.tokens / reference.dataset.sequences
    return min(sequences, int(tokens / per_sequence))


def judge(counts: Histograms, sequences: int, tokens: int, reference: Reference | None) -> Judgement:
    """Compare a window's histograms (site, bin) of so many tokens with the reference.

    The threshold is that of the largest window which is not larger than this one: it can only be too high.
    """
    if reference is None:
        return Judgement("no_reference")
    worth = independent_sequences(sequences, tokens, reference)
    if worth < reference.windows[0]:
        return Judgement("too_few")
    index = max(place for place, window in enumerate(reference.windows) if window <= worth)
    found = Judgement("ok", wasserstein(counts, reference.histograms()), np.array(reference.thresholds[index]))
    moved = int(found.moved.sum())
    if not moved:
        return found
    return Judgement("drift" if moved >= alarm_sites(len(counts)) else "watch", found.w1, found.thresholds)
