"""The depth algebra of positions in numpy: what all rewrites, one after another, did to a state.

Shapes: `n` positions, `S` sites in the order of their rewrites, `d` width, `dv` value channels. Site s makes
X_{s+1} = X_s + k_s (b_s v_s - a_s k_s^T X_s)^T with gates a that erase and b that write, equal but for what
interventions left out. With the rows k_s in K, G = K K^T, D = diag(a), B = diag(b), L = G strictly below its diagonal:

    U = (I + D L)^-1        T = U D        P = A_{S-1} ... A_0 = I - K^T T K
    C = U (B V - D K X_0)                  X_S = X_0 + K^T C = P X_0 + sum_s b_s (U^T K)_s v_s^T

Source: DDL Eq. 2.2; compact WY form of Schreiber and Van Loan (1989), here over depth.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False)
class Depth:
    """The paths of a few positions: `k` (n, S, d), `erase` and `write` (n, S), `v` (n, S, dv), `first` (n, d, dv)."""

    k: Array
    erase: Array
    write: Array
    v: Array
    first: Array

    @cached_property
    def gram(self) -> Array:
        """G = K K^T, (n, S, S)."""
        return np.asarray(self.k @ self.k.swapaxes(-1, -2))

    @cached_property
    def first_readout(self) -> Array:
        """K X_0, (n, S, dv)."""
        return np.asarray(self.k @ self.first)

    @cached_property
    def later(self) -> Array:
        """U = (I + D L)^-1."""
        below = self.erase[..., None] * np.tril(self.gram, -1)
        return np.asarray(np.linalg.inv(np.eye(below.shape[-1]) + below))

    @cached_property
    def wy_factor(self) -> Array:
        """T = U D, lower triangular."""
        return self.later * self.erase[..., None, :]

    @cached_property
    def coefficients(self) -> Array:
        """C: row s is what site s added along k_s."""
        wanted = self.write[..., None] * self.v - self.erase[..., None] * self.first_readout
        return np.asarray(self.later @ wanted)

    @cached_property
    def survivors(self) -> Array:
        """U^T K: what later sites leave of each direction, (n, S, d)."""
        return np.asarray(self.later.swapaxes(-1, -2) @ self.k)

    @cached_property
    def kept_first(self) -> Array:
        """P X_0: what is left of the first state, (n, d, dv)."""
        return np.asarray(self.first - self.k.swapaxes(-1, -2) @ (self.wy_factor @ self.first_readout))

    @property
    def final(self) -> Array:
        """X_S, (n, d, dv)."""
        return np.asarray(self.first + self.k.swapaxes(-1, -2) @ self.coefficients)

    def states(self) -> Iterator[Array]:
        """Yield X_0, X_1, ... X_S, each (n, d, dv)."""
        state = self.first
        yield state
        for site in range(self.k.shape[1]):
            state = state + self.k[:, site, :, None] * self.coefficients[:, site, None, :]
            yield state

    @property
    def eigenvalues(self) -> Array:
        """1 - a |k|^2, (n, S)."""
        return np.asarray(1.0 - self.erase * np.square(self.k).sum(-1))

    @cached_property
    def sigma(self) -> Array:
        """The min(S, d) singular values of P that can differ from 1, falling, (n, min(S, d))."""
        basis = np.linalg.qr(self.k.swapaxes(-1, -2))[0]
        rows = self.k @ basis
        inside = np.eye(rows.shape[-1]) - rows.swapaxes(-1, -2) @ self.wy_factor @ rows
        return np.asarray(np.linalg.svd(inside, compute_uv=False))

    @property
    def survival(self) -> Array:
        """|U^T K|_s / |k_s|; 0 where nothing is written."""
        return _length(self.survivors) / np.maximum(_length(self.k), _TINY)

    @cached_property
    def nearest(self) -> tuple[NDArray[np.int64], Array]:
        """For each site the earlier one with the most nearly parallel direction, and the cosine; -1 and NaN first."""
        earlier = np.tril(np.ones(self.gram.shape[-2:], bool), -1)
        site = np.where(earlier, np.abs(self.gram), -1.0).argmax(-1)
        cosine = np.take_along_axis(self.gram, site[..., None], -1)[..., 0]
        site[..., 0], cosine[..., 0] = -1, np.nan
        return site, cosine

    @property
    def k_cos_prev(self) -> Array:
        """k_s . k_{s-1}, a cosine but for what the guard takes off both lengths; NaN at the first, (n, S)."""
        dots = (self.k[:, 1:] * self.k[:, :-1]).sum(-1)
        return np.concatenate([np.full((len(dots), 1), np.nan), dots], -1)


def _length(vectors: Array) -> Array:
    return np.asarray(np.linalg.norm(vectors, axis=-1))


def _size(states: Array) -> Array:
    return np.asarray(np.sqrt(np.square(states).sum((-2, -1))))


def _log_determinant(path: Depth) -> Array:
    return np.asarray(np.log10(np.abs(path.eigenvalues)).sum(-1))


def _erank(path: Depth) -> Array:
    shares = path.sigma / np.maximum(path.sigma.sum(-1, keepdims=True), _TINY)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    return np.asarray(np.exp(entropy))


def _gram(path: Depth) -> Array:
    rows, columns = np.tril_indices(path.gram.shape[-1], -1)
    return path.gram[:, rows, columns]


FORMULAS: dict[str, Callable[[Depth], NDArray[Any]]] = {
    "k_cos_prev": lambda path: path.k_cos_prev.T,
    "rewrite_of": lambda path: path.nearest[0].T,
    "rewrite_cos": lambda path: path.nearest[1].T,
    "gram": _gram,
    "survival": lambda path: path.survival.T,
    "embedding_kept": lambda path: _size(path.kept_first) / np.maximum(_size(path.first), _TINY),
    "path_logdet": _log_determinant,
    "path_sign": lambda path: np.sign(path.eigenvalues).prod(-1),
    "path_sigma": lambda path: path.sigma.T,
    "path_erank": _erank,
}
"""Quantities of all sites together, by name: (site, position) or (position, ...)."""


def state_quantities(path: Depth, names: set[str]) -> dict[str, Array]:
    """Return those of `state_norm`, `update_ratio`, `drift` and `state_cos` that are named, (site, position)."""
    if not names:
        return {}
    first_size = _size(path.first)
    found: dict[str, list[Array]] = {name: [] for name in names}
    sizes = _length(path.k) * _length(path.coefficients)
    for site, state in zip(range(path.k.shape[1]), path.states(), strict=False):
        size = _size(state)
        values: dict[str, Callable[[Array, Array, int], Array]] = {
            "state_norm": lambda state, size, site: size,
            "update_ratio": lambda state, size, site: sizes[:, site] / size,
            "drift": lambda state, size, site: _size(state - path.first) / first_size,
            "state_cos": lambda state, size, site: (state * path.first).sum((-2, -1)) / (size * first_size),
        }
        for name in names:
            found[name].append(values[name](state, size, site))
    return {name: np.stack(per_site) for name, per_site in found.items()}


STATES = ("state_norm", "update_ratio", "drift", "state_cos")
"""Quantities of `state_quantities`."""
