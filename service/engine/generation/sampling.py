"""From logits to the next token.

Chance is counted, not remembered: the number drawn for a token follows from the seed, the choice and the token's place
in the answer alone, so the same request gives the same text whatever runs beside it.
"""

import math
import secrets
from collections.abc import Set
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.history import TokenHistory
from service.engine.generation.request import SamplingParams

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BLOCK = 64
"""Logits that are looked at together when the largest of many are searched."""

_FEW = 2048
"""Weights that are sorted for a nucleus; of more, those are found first among which it ends."""

_COARSE = 16
"""Low bits of a float32 that are left out where weights are sorted into bins; 7 of the mantissa stay."""

_COUNTER = Struct("<QQ")
_PLACE = Struct("<Q")

_COLDEST = 1e-30
"""Lowest temperature that float32 can divide by; only equal logits are left to chance there."""


@dataclass(slots=True)
class Sampler:
    """Draws the tokens of one answer. Without penalties `history` is None, and nothing is counted."""

    params: SamplingParams
    choice: int
    history: TokenHistory | None
    _key: bytes = field(init=False)
    _biased: Ints = field(init=False)
    _bias: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Choose the seed where the caller leaves it open."""
        seed = secrets.randbits(64) if self.params.seed is None else self.params.seed
        self._key = _COUNTER.pack(seed % 2**64, self.choice)
        self._biased = np.fromiter(self.params.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(self.params.logit_bias.values(), np.float32)

    @property
    def takes_largest(self) -> bool:
        """Whether the token is the largest logit as it comes from the model."""
        return self.params.is_greedy and self.history is None and not len(self._biased)

    def draw(
        self,
        logits: Floats,
        place: int,
        forbidden: Set[int] = frozenset(),
        *,
        allowed: NDArray[np.bool_] | None = None,
    ) -> int:
        """Return the token at `place` of the answer; `logits` (vocabulary,) are left alone.

        No token of `forbidden` comes, and none that is not `allowed`.

        Raises:
            ValueError: no token is left to choose from, or the logits are no numbers.
        """
        if self.history is not None or forbidden or len(self._biased) or allowed is not None:
            logits = logits.copy()
            if self.history is not None:
                self.history.penalise(logits, self.params)
            logits[self._biased] += self._bias
            logits[list(forbidden)] = -np.inf
            if allowed is not None:
                logits[~allowed] = -np.inf
        if self.params.is_greedy:
            token = int(logits.argmax())
            _check_largest(float(logits[token]))
            return token
        tokens, weights = candidates(logits, self.params)
        # Place by place down the vocabulary, not by likelihood: there, two close logits could change places.
        return int(tokens[find(weights, self._chance(place))])

    def took(self, token: int) -> None:
        """Remember a token of the answer."""
        if self.history is not None:
            self.history.add(token)

    def _chance(self, place: int) -> float:
        """Return a number from [0, 1)."""
        # A hash of the place is as good as a counter-based generator, and making one of those takes 20 times as long.
        digest = blake2b(_PLACE.pack(place), digest_size=8, key=self._key).digest()
        # 53 bits are what a float can hold.
        return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


def candidates(logits: Floats, params: SamplingParams) -> tuple[Ints, Floats]:
    """Return the tokens that remain to be drawn from, in growing order, and their weights, which need not add up to 1.

    Raises:
        ValueError: no logit is above minus infinity, or they are no numbers.
    """
    largest = float(logits.max())
    _check_largest(largest)
    tokens = largest_tokens(logits, params.top_k) if 0 < params.top_k < len(logits) else None
    chosen = logits if tokens is None else logits[tokens]
    # A tiny temperature may take the difference to minus infinity, which is a weight of 0 as it should be.
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((chosen - np.float32(largest)) / np.float32(max(params.temperature, _COLDEST)))
    keep: NDArray[np.bool_] | None = None
    if params.top_p < 1.0:
        keep = nucleus(weights, params.top_p)
    if params.min_p > 0.0:
        likely = weights >= params.min_p
        keep = likely if keep is None else keep & likely
    if keep is not None:
        kept = keep.nonzero()[0]
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    return np.arange(len(logits)) if tokens is None else tokens, weights


def largest_tokens(logits: Floats, count: int) -> Ints:
    """Return the tokens of the `count` largest logits in growing order; of equal logits the first tokens."""
    found = _not_below(logits, count)
    order = np.lexsort((found, -logits[found]))[:count]
    return np.sort(found[order])


def _not_below(logits: Floats, count: int) -> Ints:
    """Return few tokens with the `count` largest logits, and all that equal the least of them, among them."""
    whole = len(logits) // _BLOCK
    if whole < 2 * count:
        return np.arange(len(logits))
    # Each block's largest logit is one of all: the count-th largest of those few cannot be above that of all. A block
    # has every `whole`-th logit: so the maxima of all blocks are taken side by side, 20 times as fast as one by one.
    peaks = logits[: whole * _BLOCK].reshape(_BLOCK, whole).max(0)
    found: Ints = (logits >= np.partition(peaks, whole - count)[whole - count]).nonzero()[0]
    return found


def nucleus(weights: Floats, top_p: float) -> NDArray[np.bool_]:
    """Tell which are the fewest largest weights that together have `top_p` of the sum; at least one.

    Of equal weights the first ones are taken.
    """
    total = float(weights.sum(dtype=np.float64))
    # All weights below this come to less than 1 - top_p together, so none of them is wanted: few are left to sort.
    likely = weights[weights >= (1.0 - top_p) * total / len(weights)]
    larger, before, likely = (0, 0.0, likely) if len(likely) <= _FEW else _around_end(likely, top_p * total)
    falling = np.sort(likely)[::-1]
    wanted = int((before + falling.cumsum(dtype=np.float64)).searchsorted(top_p * total))
    least = falling[min(wanted, len(falling) - 1)]
    keep: NDArray[np.bool_] = weights > least
    equal = (weights == least).nonzero()[0]
    keep[equal[: larger + wanted + 1 - np.count_nonzero(keep)]] = True
    return keep


def _around_end(weights: Floats, sought: float) -> tuple[int, float, Floats]:
    """Return the few weights among which the largest ones come to `sought`; how many are larger, and their sum."""
    # The bits of floats above 0 are in the order of the numbers.
    bins = weights.view(np.uint32) >> _COARSE
    bins -= bins.min()
    sums = np.bincount(bins, weights)[::-1].cumsum()
    found = min(int(sums.searchsorted(sought)), len(sums) - 1)
    end = len(sums) - 1 - found
    return int((bins > end).sum()), float(sums[found - 1]) if found else 0.0, weights[bins == end]


def find(weights: Floats, share: float) -> int:
    """Return the first place up to which the weights come to more than `share`, below 1, of their sum."""
    starts = np.arange(0, len(weights), _BLOCK)
    blocks = np.add.reduceat(weights, starts).cumsum(dtype=np.float64)
    sought = share * blocks[-1]
    block = int(blocks.searchsorted(sought, side="right"))
    before = blocks[block - 1] if block else 0.0
    inside = weights[starts[block] : starts[block] + _BLOCK]
    place = int((before + inside.cumsum(dtype=np.float64)).searchsorted(sought, side="right"))
    if place == len(inside):  # rounding: the block's sum is a little less in this order
        place = int(inside.nonzero()[0][-1])
    return int(starts[block]) + place


def log_probabilities(logits: Floats, token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the log-probability of a token, and the `top` likeliest tokens with theirs, likeliest first."""
    largest = logits.max()
    with np.errstate(under="ignore"):
        total = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    best = largest_tokens(logits, top) if top else np.empty(0, np.int64)
    ranked = best[np.argsort(-logits[best], kind="stable")]
    return float(logits[token]) - total, tuple((int(t), float(logits[t]) - total) for t in ranked)


def _check_largest(logit: float) -> None:
    if not math.isfinite(logit):  # the largest of some values is NaN if one of them is
        raise ValueError("no token is allowed" if logit == -math.inf else "the logits are no numbers")
