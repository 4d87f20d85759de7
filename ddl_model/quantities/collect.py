"""One pass, site by site: of each only what the wanted quantities need is kept."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model.config import ResidualConfig
from ddl_model.delta_op import DeltaRewrite
from ddl_model.observe import Observer
from ddl_model.quantities.catalogue import CATALOGUE, Choice
from ddl_model.quantities.depth import Depth
from ddl_model.quantities.step import FORMULAS, Gates, Motion, Step, without_scale


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network says of one site: a rewrite, or None where it adds; the states and the raw direction, if kept."""

    site: str
    rewrite: DeltaRewrite | None
    raw: Float[Tensor, "b t d"] | None
    before: Float[Tensor, "b t d dv"] | None
    after: Float[Tensor, "b t d dv"]


class Collector:
    """Turns sites, in the order of the network, into quantities."""

    def __init__(self, choice: Choice, residual: ResidualConfig) -> None:
        """Start before the first site; the choice must exist under this residual rule."""
        self._names = choice.names
        self._residual = residual
        self._values: dict[str, list[Tensor]] = {name: [] for name in choice.names if name in FORMULAS}
        families = {CATALOGUE[name].family for name in choice.names if name not in FORMULAS}
        self.depth = Depth() if {"depth", "attribution"} & families else None
        self._first: Tensor | None = None
        self._previous: Tensor | None = None

    def add(self, seen: Seen, observer: Observer) -> None:
        """Take in the next site; `observer` knows how its direction is normalised, and what was left out.

        Raises:
            ValueError: its state has another shape than that of the sites before.
        """
        step = self._step(seen, observer)
        for name, values in self._values.items():
            values.append(FORMULAS[name](step))
        if self.depth is not None:
            self.depth.add(step, erases=self._residual.rule == "delta")

    def result(self) -> dict[str, Tensor]:
        """Return the quantities of all sites, without those that need the head."""
        found = {name: torch.stack(values) for name, values in self._values.items()}
        if self.depth is not None:
            found |= self.depth.quantities(self._names)
        return found

    def _step(self, seen: Seen, observer: Observer) -> Step:
        normalise = observer.normalise(seen.site, self._residual.direction_eps)
        gates = motion = None
        if seen.rewrite is not None:
            raw_norm = seen.rewrite.direction_norm
            erase, write = observer.step_gates(seen.site, seen.rewrite.beta)
            gates = Gates(seen.rewrite, normalise.length(raw_norm), erase, write)
        else:
            assert seen.raw is not None, "an addition has its output"
            raw_norm = normalise(seen.raw).raw_norm
        if seen.before is not None and seen.raw is not None:
            k = normalise(seen.raw).k
            unit = without_scale(k, normalise)
            first = seen.before if self._first is None else self._first
            motion = Motion(seen.before, seen.after, first, k, unit, self._previous)
            self._first, self._previous = first, unit
        return Step(raw_norm, gates, motion)
