"""Reductions of quantities where they are computed, so that an answer need not hold every number."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.errors import InvalidFields
from service.gates.quantities import QUANTITIES
from service.gates.selection import Selection

REGIMES = ("skip", "partial", "match", "over")
EDGES = (0.25, 0.75, 1.25)
Axis = Literal["site", "position"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Reduction(BaseModel):
    """One reduction: `none` keeps the tensors, all others answer something smaller.

    `histogram` counts `bins` equal bins of `range`, the last with its right edge. `quantile` interpolates linearly.
    `regimes` are shares of beta between `edges`. `topk` names the `k` cells with the largest or smallest values.
    """

    model_config = ConfigDict(extra="forbid")

    op: Literal["none", "mean", "histogram", "quantile", "regimes", "topk"]
    quantity: str | None = None
    over: list[Axis] = Field(default=["position"], min_length=1)
    range: tuple[Finite, Finite] = (0.0, 2.0)
    bins: int = Field(default=64, ge=1, le=512)
    q: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[0.05, 0.5, 0.95], min_length=1, max_length=64)
    edges: list[Finite] = Field(default=list(EDGES), min_length=3, max_length=3)
    k: int = Field(default=20, ge=1, le=1000)
    order: Literal["desc", "asc"] = "desc"

    @model_validator(mode="after")
    def _in_order(self) -> "Reduction":
        if self.range[0] >= self.range[1]:
            raise PydanticCustomError("range", "range must rise")
        if sorted(self.edges) != self.edges:
            raise PydanticCustomError("edges", "edges must rise")
        return self


def keeps_tensors(reduce: Sequence[Reduction]) -> bool:
    """Say whether the tensors themselves are answered."""
    return any(reduction.op == "none" for reduction in reduce)


def subjects(reduction: Reduction, quantities: Sequence[str]) -> list[str]:
    """Return the quantities that a reduction is about.

    Raises:
        InvalidFields: it names one that was not asked for, or one without sites and positions.
    """
    if reduction.op == "none":
        return []
    plain = [name for name in quantities if reducible(name)]
    named = reduction.quantity or {"regimes": "beta", "histogram": "beta"}.get(reduction.op)
    if named is None:
        if reduction.op == "topk":
            raise InvalidFields("reduce: topk needs a quantity")
        return plain
    if named not in plain:
        known = ", ".join(plain) or "none of them"
        raise InvalidFields(f"reduce: {named[:64]!r} is not among the quantities that can be reduced: {known}")
    return [named]


def reducible(name: str) -> bool:
    """Say whether a quantity has values of its own at the selected sites and positions."""
    row = QUANTITIES[name]
    return row.axes[:2] == ("site", "position") and row.family in ("step", "state", "depth") and not row.integer


def cells_of(reduction: Reduction, quantities: Sequence[str], shape: Callable[[str], tuple[int, ...]]) -> int:
    """Return how many numbers a reduction answers."""
    total = 0
    for name in subjects(reduction, quantities):
        sizes = shape(name)
        kept = prod(size for axis, size in zip(QUANTITIES[name].axes, sizes, strict=True) if axis not in reduction.over)
        match reduction.op:
            case "mean":
                total += kept
            case "histogram":
                total += kept * reduction.bins
            case "quantile":
                total += kept * len(reduction.q)
            case "regimes":
                total += kept * len(REGIMES)
            case _:
                total += 3 * min(reduction.k, prod(sizes))
    return total


def reduce_all(
    reduce: Sequence[Reduction],
    values: dict[str, NDArray[Any]],
    selection: Selection,
    words: Sequence[str | None] | None,
) -> list[dict[str, Any]]:
    """Return every reduction of an input's quantities; `words` are the texts of its tokens."""
    found = []
    for reduction in reduce:
        for name in subjects(reduction, list(values)):
            if reduction.op == "topk":
                found.append(_topk(reduction, name, values[name], selection, words))
            else:
                found.append(_REDUCTIONS[reduction.op](reduction, name, values[name]))
    return found


def _axes(reduction: Reduction, name: str) -> tuple[int, ...]:
    return tuple(index for index, axis in enumerate(QUANTITIES[name].axes) if axis in reduction.over)


def _mean(reduction: Reduction, name: str, values: NDArray[Any]) -> dict[str, Any]:
    data = values.astype(np.float64).mean(_axes(reduction, name)).astype(np.float32)
    told = np.ascontiguousarray(data) if data.ndim else data[()]
    return {"op": "mean", "quantity": name, "over": reduction.over, "data": told}


def _quantile(reduction: Reduction, name: str, values: NDArray[Any]) -> dict[str, Any]:
    with np.errstate(invalid="ignore"):
        data = np.quantile(values.astype(np.float64), reduction.q, axis=_axes(reduction, name), method="linear")
    data = np.ascontiguousarray(np.moveaxis(data, 0, -1), np.float32)
    return {"op": "quantile", "quantity": name, "over": reduction.over, "q": reduction.q, "data": data}


def _histogram(reduction: Reduction, name: str, values: NDArray[Any]) -> dict[str, Any]:
    """Count into fixed edges, so that histograms of several inputs add up; values outside count nowhere."""
    rows, kept = _rows(reduction, name, values)
    counts = np.stack([np.histogram(row[np.isfinite(row)], reduction.bins, reduction.range)[0] for row in rows])
    edges = np.linspace(*reduction.range, reduction.bins + 1)
    return {
        "op": "histogram",
        "quantity": name,
        "over": reduction.over,
        "edges": edges,
        "counts": counts.reshape(*kept, reduction.bins),
        "n": rows.shape[1],
    }


def _regimes(reduction: Reduction, name: str, values: NDArray[Any]) -> dict[str, Any]:
    rows, kept = _rows(reduction, name, values)
    regime = np.digitize(rows, reduction.edges)
    shares = np.stack([(regime == index).mean(-1) for index in range(len(REGIMES))], -1)
    fraction = np.ascontiguousarray(shares.reshape(*kept, len(REGIMES)))
    return {
        "op": "regimes",
        "quantity": name,
        "over": reduction.over,
        "edges": reduction.edges,
        "names": REGIMES,
        "fraction": fraction,
    }


def _rows(reduction: Reduction, name: str, values: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Return values with what is reduced as the last of two axes, and the shape of what is kept."""
    over = _axes(reduction, name)
    kept = tuple(size for axis, size in enumerate(values.shape) if axis not in over)
    moved = np.moveaxis(values, over, range(-len(over), 0))
    return moved.reshape(prod(kept), -1), kept


def _topk(
    reduction: Reduction,
    name: str,
    values: NDArray[Any],
    selection: Selection,
    words: Sequence[str | None] | None,
) -> dict[str, Any]:
    """Name the largest or smallest cells; equal ones in the order of site and position, what is no number last."""
    sign = -1.0 if reduction.order == "desc" else 1.0
    order = np.argsort(sign * values.reshape(-1).astype(np.float64), kind="stable")[: reduction.k]
    rows: list[dict[str, Any]] = []
    for cell in order:
        site, column, *rest = np.unravel_index(cell, values.shape)
        position = selection.positions[column]
        row = {"site": selection.sites[site].index, "position": position, "value": values.reshape(-1)[cell]}
        rows.append(row | ({"channel": int(rest[0])} if rest else {}) | ({"token": words[position]} if words else {}))
    return {"op": "topk", "quantity": name, "order": reduction.order, "rows": rows}


_REDUCTIONS: dict[str, Callable[[Reduction, str, NDArray[Any]], dict[str, Any]]] = {
    "mean": _mean,
    "quantile": _quantile,
    "histogram": _histogram,
    "regimes": _regimes,
}
