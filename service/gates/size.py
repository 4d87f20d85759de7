"""How many numbers an answer will have, and what to ask for instead where they are too many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from service.bundle import Site
from service.errors import ResultTooLarge
from service.gates.quantities import QUANTITIES
from service.gates.reductions import Reduction, cells_of, keeps_tensors
from service.gates.selection import PositionSlice, Select, Selection

_JSON_BYTES = 12
"""About what a float32 and its comma take in JSON."""
_BINARY_BYTES = 4


@dataclass(frozen=True)
class Extent:
    """What the sizes of tensors follow from.

    `sites` of the network are `all_sites`; the lens looks at `lens` positions with `targets` and `top_k` words each.
    """

    sites: int
    positions: int
    all_sites: int
    channels: int
    lens: int = 1
    targets: int = 1
    top_k: int = 5
    pooled: bool = False

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a quantity."""
        row = QUANTITIES[name]
        at_lens = row.family == "lens" or (row.family == "attribution" and not self.pooled)
        sizes = {
            "site": self.all_sites if name == "path_sigma" else self.sites,
            "site+1": self.sites + 1,
            "position": self.lens if at_lens else self.positions,
            "channel": self.channels,
            "pair": self.all_sites * (self.all_sites - 1) // 2,
            "k": self.top_k,
            "target": self.targets,
        }
        return tuple(sizes[axis] for axis in row.axes)

    def cells(self, quantities: Sequence[str], reduce: Sequence[Reduction]) -> int:
        """Return how many numbers the quantities and their reductions make for one input."""
        tensors = sum(prod(self.shape(name)) for name in quantities) if keeps_tensors(reduce) else 0
        return tensors + sum(cells_of(reduction, quantities, self.shape) for reduction in reduce)


@dataclass(frozen=True)
class Wanted:
    """One request as far as its size goes: selections and extents of its inputs, one each.

    `runs` is 2 where the unchanged run is answered beside the changed one. With `whole_positions` neither positions nor
    reductions can be chosen.
    """

    select: Select
    selections: tuple[Selection, ...]
    extents: tuple[Extent, ...]
    quantities: tuple[str, ...]
    reduce: tuple[Reduction, ...]
    runs: int = 1
    whole_positions: bool = False

    @property
    def cells(self) -> int:
        """How many numbers the answer will have."""
        return self.runs * sum(extent.cells(self.quantities, self.reduce) for extent in self.extents)


def check_size(wanted: Wanted, limit: int, binary_limit: int, *, binary: bool) -> None:
    """Refuse an answer that is too large before anything is computed.

    Raises:
        ResultTooLarge: with the count, the limit, and patches of the request that would fit.
    """
    allowed = binary_limit if binary else limit
    if wanted.cells <= allowed:
        return
    patches = _smaller(wanted, allowed)
    if not binary and wanted.cells <= binary_limit:
        patches.append({"output": {"format": "safetensors"}})
    raise ResultTooLarge(
        f"the answer would have {wanted.cells} numbers, {allowed} are allowed in {'safetensors' if binary else 'JSON'}",
        cells=wanted.cells,
        limit_cells=allowed,
        bytes_estimate=wanted.cells * (_BINARY_BYTES if binary else _JSON_BYTES),
        **{"try": patches},
    )


def _smaller(wanted: Wanted, limit: int) -> list[dict[str, Any]]:
    """Return patches of the request that fit: fewer positions, fewer layers, fewer quantities, means alone."""
    chosen = wanted.select.model_dump(by_alias=True)
    patches: list[dict[str, Any]] = []
    longest = max(wanted.selections, key=lambda selection: len(selection.positions)).positions

    def with_positions(count: int) -> int:
        shorter = [
            replace(extent, positions=min(extent.positions, count), lens=min(extent.lens, count))
            for extent in wanted.extents
        ]
        return replace(wanted, extents=tuple(shorter)).cells

    fitting = next((count for count in range(len(longest), 0, -1) if with_positions(count) <= limit), 0)
    if 0 < fitting < len(longest) and not wanted.whole_positions:
        patches.append({"select": {**chosen, "positions": _first(wanted.select, longest[:fitting])}})

    layers = sorted({site.layer for site in wanted.selections[0].sites})
    while layers and _with_layers(wanted, layers, wanted.selections[0].sites) > limit:
        layers.pop()
    if 0 < len(layers) < len({site.layer for site in wanted.selections[0].sites}):
        patches.append({"select": {**chosen, "layers": layers}})
    if len(wanted.quantities) > 1 and replace(wanted, quantities=wanted.quantities[:1]).cells <= limit:
        patches.append({"quantities": [wanted.quantities[0]]})
    mean = Reduction.model_validate({"op": "mean", "over": ["position"]})
    if not wanted.whole_positions and 0 < replace(wanted, reduce=(mean,)).cells <= limit:
        patches.append({"reduce": [{"op": "mean", "over": ["position"]}]})
    return patches


def _with_layers(wanted: Wanted, layers: Sequence[int], sites: Sequence[Site]) -> int:
    count = sum(site.layer in layers for site in sites)
    return replace(wanted, extents=tuple(replace(extent, sites=count) for extent in wanted.extents)).cells


def _first(select: Select, positions: Sequence[int]) -> dict[str, int] | list[int]:
    if isinstance(select.positions, list):
        return list(positions)
    stride = select.positions.stride if isinstance(select.positions, PositionSlice) else 1
    return {"from": positions[0], "to": positions[-1] + 1, "stride": stride}
