"""The catalogue of gate quantities: name, axes, unit, range, definition, and how it follows from the graph's outputs.

Symbols: k direction with length kappa, v target, p = k^T X readout, e the discrepancy p - v, r length of the raw
direction, eps its guard. Arrays are float64 of shape (site, position) or (site, position, channel).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Gates
from service.errors import CaptureUnavailable, InvalidFields, QuantityNotDefined, UnknownQuantity

Array = NDArray[np.float64]
Range = tuple[float | None, float | None]

SITE = ("site", "position")
CHANNEL = ("site", "position", "channel")
CAPTURED = ("beta", "beta_logit", "proj", "v", "k_raw_norm")
"""Quantities that a graph can have as outputs; all others are closed forms of these."""
PRESETS = {"core": ("beta",)}

_ANY: Range = (None, None)
_POSITIVE: Range = (0.0, None)
_DELTA = frozenset({"delta"})
_GATED = frozenset({"delta", "write_only"})
_EVERY = frozenset({"delta", "write_only", "additive"})


class Captured:
    """The captured quantities of one input, and the closed forms that others build on."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]], eps: float, update_rule: str = "delta") -> None:
        """Keep the captured arrays by name, the guard of the direction, and the rule that rewrites the state."""
        self._outputs = outputs
        self._eps = eps
        self._erases = update_rule == "delta"

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
        """Length of the rewrite per unit of discrepancy: beta kappa."""
        return self["beta"] * self.k_norm

    @property
    def eigenvalue(self) -> Array:
        """Factor that the rewrite puts on the discrepancy: 1 - beta kappa^2."""
        return np.asarray(1.0 - self["beta"] * np.square(self.k_norm))

    @property
    def e_pre(self) -> Array:
        """Discrepancy before the rewrite: p - v."""
        return self["proj"] - self["v"]

    @property
    def e_post(self) -> Array:
        """Discrepancy after the rewrite: (1 - beta kappa^2) (p - v), or p - v + beta kappa^2 v without erasing."""
        return self.e_pre - (self.step * self.k_norm)[..., None] * self.pull

    @property
    def pull(self) -> Array:
        """What the rewrite writes per unit of its step: v - p, or v without erasing; with the sign of e_pre."""
        return self.e_pre if self._erases else -self["v"]


@dataclass(frozen=True)
class Quantity:
    """One row of the catalogue; `needs` names the captured quantities that it is computed from."""

    axes: tuple[str, ...]
    unit: str
    range: Range
    definition: str
    needs: tuple[str, ...]
    compute: Callable[[Captured], Array]
    rules: frozenset[str] = _GATED


def _norm(vectors: Array) -> Array:
    return np.asarray(np.sqrt(np.square(vectors).sum(-1)))


QUANTITIES: dict[str, Quantity] = {
    "beta": Quantity(SITE, "1", (0.0, 2.0), "gate", ("beta",), lambda c: c["beta"]),
    "beta_logit": Quantity(SITE, "logit", _ANY, "gate before the sigmoid", ("beta_logit",), lambda c: c["beta_logit"]),
    "proj": Quantity(CHANNEL, "state", _ANY, "readout k^T X", ("proj",), lambda c: c["proj"]),
    "v": Quantity(CHANNEL, "state", _ANY, "target", ("v",), lambda c: c["v"]),
    "k_raw_norm": Quantity(
        SITE,
        "sublayer",
        _POSITIVE,
        "length of the raw direction: of the sublayer's output",
        ("k_raw_norm",),
        lambda c: c["k_raw_norm"],
        _EVERY,
    ),
    "k_norm": Quantity(SITE, "1", (0.0, 1.0), "kappa = r / sqrt(r^2 + eps^2)", ("k_raw_norm",), lambda c: c.k_norm),
    "eigenvalue": Quantity(
        SITE, "1", (-1.0, 1.0), "1 - beta kappa^2", ("beta", "k_raw_norm"), lambda c: c.eigenvalue, _DELTA
    ),
    "e_pre": Quantity(CHANNEL, "state", _ANY, "discrepancy before: k^T X - v", ("proj", "v"), lambda c: c.e_pre),
    "e_pre_norm": Quantity(
        SITE, "state", _POSITIVE, "2-norm of e_pre over channels", ("proj", "v"), lambda c: _norm(c.e_pre)
    ),
    "e_post": Quantity(
        CHANNEL,
        "state",
        _ANY,
        "discrepancy after: (1 - beta kappa^2) e_pre; without erasing e_pre + beta kappa^2 v",
        ("beta", "k_raw_norm", "proj", "v"),
        lambda c: c.e_post,
    ),
    "e_post_norm": Quantity(
        SITE,
        "state",
        _POSITIVE,
        "2-norm of e_post over channels",
        ("beta", "k_raw_norm", "proj", "v"),
        lambda c: _norm(c.e_post),
    ),
    "erase_norm": Quantity(
        SITE,
        "state",
        _POSITIVE,
        "what is taken away: beta kappa |k^T X|",
        ("beta", "k_raw_norm", "proj"),
        lambda c: c.step * _norm(c["proj"]),
        _DELTA,
    ),
    "write_norm": Quantity(
        SITE,
        "state",
        _POSITIVE,
        "what is put in: beta kappa |v|",
        ("beta", "k_raw_norm", "v"),
        lambda c: c.step * _norm(c["v"]),
    ),
    "update_norm": Quantity(
        SITE,
        "state",
        _POSITIVE,
        "change of the state |X' - X| = beta kappa |e_pre|; without erasing beta kappa |v|",
        ("beta", "k_raw_norm", "proj", "v"),
        lambda c: c.step * _norm(c.pull),
    ),
}


def find_quantities(asked: str | list[str], gates: Gates) -> tuple[str, ...]:
    """Return the names of a preset or a list, each once, in the order asked for.

    Raises:
        InvalidFields: nothing is asked for.
        UnknownQuantity: a name is neither a quantity nor a preset.
        QuantityNotDefined: a quantity does not exist under the model's update rule.
        CaptureUnavailable: the bundle lacks a graph output that a quantity needs.
    """
    names: dict[str, None] = {}
    for name in [asked] if isinstance(asked, str) else asked:
        names.update(dict.fromkeys(PRESETS.get(name, (name,))))
    if not names:
        raise InvalidFields("quantities is empty: name at least one, or a preset")
    for name in names:
        if name not in QUANTITIES:
            known = [*QUANTITIES, *PRESETS]
            raise UnknownQuantity(f"no quantity {name[:64]!r}; known: {', '.join(known)}", known=known)
    for name in names:
        if not _defined(name, gates):
            raise QuantityNotDefined(
                f"{name!r} is not defined under the update rule {gates.update_rule!r}",
                defined=[other for other in QUANTITIES if _defined(other, gates)],
            )
        if reason := unavailable(name, gates):
            raise CaptureUnavailable(reason)
    return tuple(names)


def unavailable(name: str, gates: Gates) -> str | None:
    """Return why this bundle cannot answer a quantity, or None if it can."""
    if not _defined(name, gates):
        return f"{name!r} is not defined under the update rule {gates.update_rule!r}"
    if missing := [needed for needed in QUANTITIES[name].needs if needed not in gates.outputs]:
        return f"{name!r} needs {', '.join(missing)}, which the bundle was exported without"
    return None


def _defined(name: str, gates: Gates) -> bool:
    return gates.update_rule in QUANTITIES[name].rules
