"""Which sites and positions a request asks for."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from service.bundle import Gates, Site
from service.errors import BadSelection

Slice = Annotated[str, StringConstraints(pattern=r"^(-?[0-9]{1,6})?:(-?[0-9]{1,6})?$")]
Sublayer = Literal["attn", "mlp", "conv"]
SUBLAYERS: tuple[Sublayer, ...] = ("attn", "mlp", "conv")
Index = Annotated[int, Field(strict=True)]

_LAYERS = '"all", a list of numbers, or a slice such as "1:" or "-2:"; negative counts from the end'
_POSITIONS = '"all", a list of numbers, or {"from", "to", "stride"} as a Python slice; negative counts from the end'


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

    from_: Index | None = Field(default=None, alias="from")
    to: Index | None = None
    stride: int = Field(default=1, ge=1, strict=True)


Positions = Annotated[Literal["all"] | PositionSlice | list[Index], _described(_POSITIONS)]


class Select(BaseModel):
    """A part of the trace; everything by default."""

    model_config = ConfigDict(extra="forbid")

    layers: Annotated[Literal["all"] | Slice | list[Index], _described(_LAYERS)] = Field(
        default="all", description=_LAYERS
    )
    sublayers: list[Sublayer] = Field(default=list(SUBLAYERS), min_length=1)
    positions: Positions = Field(default="all", description=_POSITIONS)


@dataclass(frozen=True)
class Selection:
    """The chosen sites, in the order of the network, and the chosen positions, in the order asked for."""

    sites: tuple[Site, ...]
    positions: tuple[int, ...]


def resolve(select: Select, gates: Gates, position_count: int) -> Selection:
    """Turn a selection into sites and positions.

    Raises:
        BadSelection: a layer or position does not exist, or nothing is left.
    """
    layers = choose_layers(select.layers, gates)
    sites = tuple(site for site in gates.sites if site.layer in layers and site.sublayer in select.sublayers)
    if not sites:
        raise BadSelection("the selection leaves no site", layers=sorted(layers), sublayers=select.sublayers)
    return Selection(sites, choose_positions(select.positions, position_count))


def choose_layers(asked: str | list[int], gates: Gates) -> set[int]:
    """Return the numbers of the layers that are meant.

    Raises:
        BadSelection: one of them does not exist.
    """
    count = 1 + max((site.layer for site in gates.sites), default=-1)
    if asked == "all":
        return set(range(count))
    if isinstance(asked, str):
        start, _, stop = asked.partition(":")
        bounds = [int(start or 0), int(stop or count)]
        if any(not -count <= bound <= count for bound in bounds):
            raise BadSelection(f"layers {asked!r} leaves the model's {count} layers", layers=count)
        return set(range(count)[bounds[0] : bounds[1]])
    return {_index("layer", layer, count) for layer in asked}


def choose_positions(asked: Positions, count: int) -> tuple[int, ...]:
    """Return which of `count` positions are meant.

    Raises:
        BadSelection: one of them does not exist, or there are none.
    """
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
