"""Which sites and positions a request asks for, and how many numbers that makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from service.bundle import Gates, Site
from service.errors import BadSelection, ResultTooLarge
from service.gates.quantities import QUANTITIES

Slice = Annotated[str, StringConstraints(pattern=r"^(-?[0-9]{1,6})?:(-?[0-9]{1,6})?$")]
Index = Annotated[int, Field(strict=True)]

_LAYERS = '"all", a list of numbers, or a slice such as "1:" or "-2:"; negative counts from the end'
_POSITIONS = '"all", a list of numbers, or {"from", "to", "stride"} as a Python slice; negative counts from the end'
_BYTES_PER_CELL = 12
"""About what a float32 and its comma take in JSON."""


def _described(what: str) -> WrapValidator:
    """Replace the complaints of every branch of a union by one sentence."""

    def validate(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("selection", "must be {what}", {"what": what}) from None

    return WrapValidator(validate)


class PositionSlice(BaseModel):
    """A slice of positions as Python means it: `from` included, `to` not, negative from the end."""

    model_config = ConfigDict(extra="forbid")

    from_: Index | None = Field(None, alias="from")
    to: Index | None = None
    stride: int = Field(1, ge=1, strict=True)


class Select(BaseModel):
    """A part of the trace; everything by default."""

    model_config = ConfigDict(extra="forbid")

    layers: Annotated[Literal["all"] | Slice | list[Index], _described(_LAYERS)] = Field(
        default="all", description=_LAYERS
    )
    sublayers: list[Literal["attn", "mlp"]] = Field(default=["attn", "mlp"], min_length=1)
    positions: Annotated[Literal["all"] | PositionSlice | list[Index], _described(_POSITIONS)] = Field(
        default="all", description=_POSITIONS
    )


@dataclass(frozen=True)
class Selection:
    """The chosen sites, in the order of the network, and the chosen positions, in the order asked for."""

    sites: tuple[Site, ...]
    positions: tuple[int, ...]

    def cells(self, quantities: Sequence[str], value_channels: int) -> int:
        """Return how many numbers the quantities make for one input."""
        channels = sum(value_channels if "channel" in QUANTITIES[name].axes else 1 for name in quantities)
        return len(self.sites) * len(self.positions) * channels


def resolve(select: Select, gates: Gates, position_count: int) -> Selection:
    """Turn a selection into sites and positions.

    Raises:
        BadSelection: a layer or position does not exist, or nothing is left.
    """
    layers = _layers(select, 1 + max((site.layer for site in gates.sites), default=-1))
    sites = tuple(site for site in gates.sites if site.layer in layers and site.sublayer in select.sublayers)
    if not sites:
        raise BadSelection("the selection leaves no site", layers=sorted(layers), sublayers=select.sublayers)
    return Selection(sites, _positions(select, position_count))


def check_size(
    selection: Selection, quantities: Sequence[str], gates: Gates, rows: int, limit: int, select: Select
) -> None:
    """Refuse an answer of more than `limit` numbers before anything is computed.

    Raises:
        ResultTooLarge: with the count, the limit, and changes of the request that would fit.
    """
    cells = rows * selection.cells(quantities, gates.value_channels)
    if cells > limit:
        raise ResultTooLarge(
            f"the answer would have {cells} numbers, {limit} are allowed in JSON",
            cells=cells,
            limit_cells=limit,
            bytes_estimate=cells * _BYTES_PER_CELL,
            **{"try": _smaller(selection, quantities, gates, rows, limit, select)},
        )


def _smaller(
    selection: Selection, quantities: Sequence[str], gates: Gates, rows: int, limit: int, select: Select
) -> list[dict[str, Any]]:
    """Return patches of the request that fit the limit: fewer positions, fewer layers, fewer quantities."""

    def cells(sites: Sequence[Site], positions: Sequence[int], names: Sequence[str]) -> int:
        return rows * Selection(tuple(sites), tuple(positions)).cells(names, gates.value_channels)

    chosen = select.model_dump(by_alias=True)
    patches: list[dict[str, Any]] = []
    if fitting := limit // cells(selection.sites, selection.positions[:1], quantities):
        patches.append({"select": {**chosen, "positions": _first_positions(select, selection.positions[:fitting])}})
    layers = sorted({site.layer for site in selection.sites})
    while layers and cells([s for s in selection.sites if s.layer in layers], selection.positions, quantities) > limit:
        layers.pop()
    if layers:
        patches.append({"select": {**chosen, "layers": layers}})
    if cells(selection.sites, selection.positions, quantities[:1]) <= limit:
        patches.append({"quantities": list(quantities[:1])})
    return patches


def _first_positions(select: Select, positions: Sequence[int]) -> dict[str, int] | list[int]:
    if isinstance(select.positions, list):
        return list(positions)
    stride = select.positions.stride if isinstance(select.positions, PositionSlice) else 1
    return {"from": positions[0], "to": positions[-1] + 1, "stride": stride}


def _layers(select: Select, count: int) -> set[int]:
    asked = select.layers
    if asked == "all":
        return set(range(count))
    if isinstance(asked, str):
        start, _, stop = asked.partition(":")
        bounds = [int(start or 0), int(stop or count)]
        if any(not -count <= bound <= count for bound in bounds):
            raise BadSelection(f"layers {asked!r} leaves the model's {count} layers", layers=count)
        return set(range(count)[bounds[0] : bounds[1]])
    return {_index("layer", layer, count) for layer in asked}


def _positions(select: Select, count: int) -> tuple[int, ...]:
    asked = select.positions
    if isinstance(asked, PositionSlice):
        positions = tuple(range(count)[asked.from_ : asked.to : asked.stride])
    elif asked == "all":
        positions = tuple(range(count))
    else:
        positions = tuple(_index("position", position, count) for position in asked)
    if not positions:
        raise BadSelection(f"the selection leaves none of the {count} positions", positions=count)
    return positions


def _index(kind: str, index: int, count: int) -> int:
    if not -count <= index < count:
        raise BadSelection(f"there is no {kind} {index}; the input has {count}", **{f"{kind}s": count})
    return index % count
