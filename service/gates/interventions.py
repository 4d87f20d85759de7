"""Interventions: what would the network say if this gate did something else? A closed list, no code of the caller.

All of them come to six numbers for each site and position, which the graph takes as an override: beta becomes
`scale * beta + shift`, or `shift` where `scale` is 0, cut to [`low`, `high`]; `erase` and `write` weigh readout and
target. Entries compose in their order: `scale` after `set` scales what was set.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.bundle import Gates, Site
from service.errors import BadIntervention, BadSelection, CaptureUnavailable
from service.gates.selection import SUBLAYERS, Index, Positions, Slice, Sublayer, choose_layers, choose_positions

Operation = Literal["set", "scale", "clamp", "mean", "patch", "drop_erase", "drop_write"]
OPERATIONS: tuple[Operation, ...] = ("set", "scale", "clamp", "mean", "patch", "drop_erase", "drop_write")
NO_CHANGE = (1.0, 0.0, 0.0, 2.0, 1.0, 1.0)
_SCALE, _SHIFT, _LOW, _HIGH, _ERASE, _WRITE = range(6)
_FIELDS = {"set": {"value"}, "scale": {"value"}, "clamp": {"min", "max"}, "mean": {"source"}, "patch": {"from"}}

Floats = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Where(BaseModel):
    """Which gates: `sites` by name or number, or `layers` and `sublayers`; everything by default."""

    model_config = ConfigDict(extra="forbid")

    sites: Literal["all"] | list[str | Index] = "all"
    layers: Literal["all"] | Slice | list[Index] = "all"
    sublayers: list[Sublayer] = Field(default=list(SUBLAYERS), min_length=1)
    positions: Literal["prompt", "generated"] | Positions = "all"


class PatchSource(BaseModel):
    """Where the gates of a patch are from: another input of this request by its number, or one of its own."""

    model_config = ConfigDict(extra="forbid")

    input: int | None = Field(default=None, ge=0, strict=True)
    inputs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "PatchSource":
        if (self.input is None) == (self.inputs is None):
            raise PydanticCustomError("exactly_one", "give exactly one of input and inputs")
        return self


class Intervention(BaseModel):
    """One change of gates.

    `set`: beta becomes `value`. `scale`: `value * beta`, cut to [0, 2]. `clamp`: beta is cut to [`min`, `max`]. `mean`:
    the site's mean over the positions of the unchanged run. `patch`: beta of another run, where the inputs agree.
    `drop_erase`: X' = X + beta k v^T. `drop_write`: X' = X - beta k k^T X.
    """

    model_config = ConfigDict(extra="forbid", validate_by_name=True, validate_by_alias=True)

    op: Operation
    value: Finite | None = None
    min: Finite | None = None
    max: Finite | None = None
    source: Literal["sequence", "reference"] | None = None
    from_: PatchSource | None = Field(default=None, alias="from")
    where: Where = Where()

    @model_validator(mode="after")
    def _fields_fit(self) -> "Intervention":
        given = {name for name in ("value", "min", "max", "source") if getattr(self, name) is not None}
        given |= {"from"} if self.from_ is not None else set()
        allowed = _FIELDS.get(self.op, set())
        if given - allowed:
            raise PydanticCustomError("fields", "{op} takes no {name}", {"op": self.op, "name": min(given - allowed)})
        if self.op in ("set", "scale", "patch") and not given:
            raise PydanticCustomError("fields", "{op} needs {name}", {"op": self.op, "name": min(allowed)})
        return self


def check(interventions: Sequence[Intervention], gates: Gates) -> None:
    """Hold interventions to what gates can be.

    Raises:
        BadIntervention: a value is outside of what a gate can take, or the model cannot do it.
        CaptureUnavailable: the bundle was exported without inputs for overrides.
    """
    if interventions and not gates.overrides:
        raise CaptureUnavailable("the bundle was exported without inputs that change gates")
    for each in interventions:
        low, high = 0.0 if each.min is None else each.min, 2.0 if each.max is None else each.max
        if each.op == "set" and not 0 <= (each.value or 0.0) <= 2:
            raise BadIntervention(f"set: value must lie in [0, 2], got {each.value:g}")
        if each.op == "scale" and (each.value or 0.0) < 0:
            raise BadIntervention(f"scale: value must be at least 0, got {each.value:g}")
        if each.op == "clamp" and not 0 <= low <= high <= 2:
            raise BadIntervention(f"clamp: 0 <= min <= max <= 2 must hold, got {low:g} and {high:g}")
        if each.op == "mean" and each.source == "reference":
            raise BadIntervention('mean: there is no reference here; source can be "sequence"')
        if each.op == "drop_erase" and gates.update_rule == "write_only":
            raise BadIntervention("drop_erase: this model never erases")
        if each.where.positions == "generated":
            raise BadIntervention('positions "generated": nothing is generated here, all positions are of the prompt')


def chosen_sites(where: Where, gates: Gates) -> list[int]:
    """Return the numbers of the sites that are meant.

    Raises:
        BadIntervention: a site or layer does not exist.
    """
    try:
        layers = choose_layers(where.layers, gates)
    except BadSelection as error:
        raise BadIntervention(f"where: {error}", **error.details) from error
    found = [site for site in gates.sites if site.layer in layers and site.sublayer in where.sublayers]
    if where.sites == "all":
        return [site.index for site in found]
    named = [_site(name, gates.sites) for name in where.sites]
    return [index for index in dict.fromkeys(named) if index in {site.index for site in found}]


def overrides(
    interventions: Sequence[Intervention],
    gates: Gates,
    beta: NDArray[Any],
    patches: Mapping[int, tuple[Sequence[int], NDArray[Any]]],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the override of each site and position (site, position, 6), and which of them anything was asked of.

    `beta` (site, position) are the gates of the unchanged run. `patches` has, for the number of each intervention that
    patches, the positions to change and the gates (site, those positions) of the other run.

    Raises:
        BadIntervention: a site or position does not exist.
    """
    sites, count = beta.shape
    fields: Floats = np.tile(np.array(NO_CHANGE), (sites, count, 1))
    touched = np.zeros((sites, count), bool)
    for number, each in enumerate(interventions):
        chosen = chosen_sites(each.where, gates)
        try:
            places = list(choose_positions(_of_prompt(each.where), count))
        except BadSelection as error:
            raise BadIntervention(f"where: {error}", **error.details) from error
        values: Floats | None = None
        if each.op == "patch":
            aligned, other = patches[number]
            column = {place: index for index, place in enumerate(aligned)}
            places = [place for place in places if place in column]
            values = other[np.ix_(chosen, [column[place] for place in places])].astype(np.float64)
        cells = np.ix_(chosen, places)
        if each.op == "mean":
            mean = beta[chosen].astype(np.float64).mean(1, keepdims=True)
            values = np.broadcast_to(mean, (len(chosen), len(places)))
        fields[cells] = _composed(fields[cells], each, values)
        touched[cells] = True
    return fields.astype(np.float32), touched


def apply(fields: NDArray[np.float32], beta: NDArray[Any]) -> Floats:
    """Return the gates that overrides make of others, as the graph does it."""
    exact, gate = fields.astype(np.float64), np.asarray(beta, np.float64)
    changed = np.where(exact[..., _SCALE] == 0, exact[..., _SHIFT], exact[..., _SCALE] * gate + exact[..., _SHIFT])
    return np.asarray(np.minimum(np.maximum(changed, exact[..., _LOW]), exact[..., _HIGH]))


def _of_prompt(where: Where) -> Positions:
    """Return the positions that are meant, where nothing is generated."""
    return "all" if where.positions == "prompt" or where.positions == "generated" else where.positions


def _composed(fields: Floats, each: Intervention, values: Floats | None) -> Floats:
    """Return overrides after one more intervention; affine maps that are cut stay such when composed."""
    fields = fields.copy()
    match each.op:
        case "set" | "mean" | "patch":
            fields[..., _SCALE], fields[..., _SHIFT] = 0.0, each.value if values is None else values
            fields[..., _LOW], fields[..., _HIGH] = 0.0, 2.0
        case "scale":
            # The bounds move along, and [0, 2] cuts last.
            fields[..., : _HIGH + 1] *= each.value or 0.0
            fields[..., _LOW : _HIGH + 1] = np.clip(fields[..., _LOW : _HIGH + 1], 0.0, 2.0)
        case "clamp":
            low, high = 0.0 if each.min is None else each.min, 2.0 if each.max is None else each.max
            fields[..., _LOW : _HIGH + 1] = np.clip(fields[..., _LOW : _HIGH + 1], low, high)
        case "drop_erase":
            fields[..., _ERASE] = 0.0
        case _:
            fields[..., _WRITE] = 0.0
    return fields


def _site(name: str | int, sites: Sequence[Site]) -> int:
    for site in sites:
        if name in (site.name, site.index):
            return site.index
    raise BadIntervention(f"there is no site {name!r}", sites=[site.name for site in sites])
