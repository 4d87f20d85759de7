"""Closed forms: every quantity that follows from what one rewrite says of itself.

Arrays are float64 of shape (site, position) or (site, position, channel).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Captured:
    """The captured quantities of one input, and the closed forms that others build on.

    `erase` and `write` weigh readout and target in the step, (site, position): 0 where an intervention left either out.
    """

    def __init__(
        self,
        outputs: Mapping[str, NDArray[Any]],
        eps: float,
        update_rule: str = "delta",
        erase: Array | float = 1.0,
        write: Array | float = 1.0,
    ) -> None:
        """Keep the captured arrays by name, the guard of the direction, and how the state is rewritten."""
        self._outputs = outputs
        self._eps = eps
        self.erase = np.asarray(erase if update_rule == "delta" else 0.0, np.float64)
        self.write = np.asarray(write, np.float64)

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self._outputs[name], np.float64)

    @property
    def k_norm(self) -> Array:
        """Length of the direction as used: r / sqrt(r^2 + eps^2)."""
        # Where the square overflowed in the graph, its direction came out as zero.
        r = np.where(np.isinf(self["k_raw_norm"]), 0.0, self["k_raw_norm"])
        return np.asarray(r / np.maximum(np.hypot(r, self._eps), np.finfo(np.float64).tiny))

    @property
    def step(self) -> Array:
        """Length of the rewrite per unit of what it moves: beta kappa."""
        return self["beta"] * self.k_norm

    @property
    def e_pre(self) -> Array:
        """Discrepancy before the rewrite: p - v."""
        return self["proj"] - self["v"]

    @property
    def moved(self) -> Array:
        """What the rewrite writes per unit of its step: v - p, or whichever of them was not left out."""
        erase, write = np.expand_dims(self.erase, -1), np.expand_dims(self.write, -1)
        # 0 times what is not finite would not be left out.
        return np.asarray(
            np.where(write == 0, 0.0, write * self["v"]) - np.where(erase == 0, 0.0, erase * self["proj"])
        )

    @property
    def e_post(self) -> Array:
        """Discrepancy after the rewrite: what k^T X' - v comes to."""
        return self.e_pre + (self.step * self.k_norm)[..., None] * self.moved

    @property
    def erase_norm(self) -> Array:
        """Length of what is taken away."""
        return self.step * self.erase * norm(self["proj"])

    @property
    def write_norm(self) -> Array:
        """Length of what is put in."""
        return self.step * self.write * norm(self["v"])


def norm(vectors: Array) -> Array:
    """Return 2-norms over the last axis."""
    return np.asarray(np.sqrt(np.square(vectors).sum(-1)))


def _energy_delta(c: Captured) -> Array:
    moved = c.moved
    first = 2.0 * c["beta"] * (c["proj"] * moved).sum(-1)
    return np.asarray(first + np.square(c.step) * np.square(moved).sum(-1))


def _agreement(c: Captured) -> Array:
    v, p = c["v"], c["proj"]
    return np.asarray((v * p).sum(-1) / np.maximum(norm(v) * norm(p), np.finfo(np.float64).tiny))


FORMULAS: dict[str, Callable[[Captured], Array]] = {
    "beta": lambda c: c["beta"],
    "beta_logit": lambda c: c["beta_logit"],
    "proj": lambda c: c["proj"],
    "v": lambda c: c["v"],
    "k_raw_norm": lambda c: c["k_raw_norm"],
    "k_norm": lambda c: c.k_norm,
    "eigenvalue": lambda c: np.asarray(1.0 - c.erase * c["beta"] * np.square(c.k_norm)),
    "e_pre": lambda c: c.e_pre,
    "e_pre_norm": lambda c: norm(c.e_pre),
    "e_post": lambda c: c.e_post,
    "e_post_norm": lambda c: norm(c.e_post),
    "erase_norm": lambda c: c.erase_norm,
    "write_norm": lambda c: c.write_norm,
    "balance": lambda c: (c.write_norm - c.erase_norm) / (c.write_norm + c.erase_norm),
    "agreement": _agreement,
    "update_norm": lambda c: c.step * norm(c.moved),
    "energy_delta": _energy_delta,
}
"""Quantities of the family `step`, by name."""
