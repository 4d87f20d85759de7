"""Named observation points: what each rewrite of one forward pass did, and what it should do instead.

A site is one rewrite, named `LAYER.SUBLAYER` (`0.attn`, `0.mlp`, `1.attn`, ...). A model is given an observer for one
pass and hands it every rewrite; without one, no quantity is kept and compilers drop their computation.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.delta_op import DeltaRewrite
from ddl_model.interventions import GateChange, Intervention, combine

Sublayer = Literal["attn", "mlp"]
SUBLAYERS: tuple[Sublayer, ...] = ("attn", "mlp")


def site_name(layer: int, sublayer: Sublayer) -> str:
    """Return the name of a rewrite."""
    return f"{layer}.{sublayer}"


def site_names(layers: int) -> list[str]:
    """Return the sites of a network in the order in which they rewrite the state."""
    return [site_name(layer, sublayer) for layer in range(layers) for sublayer in SUBLAYERS]


class Observer:
    """Collects the rewrites of one forward pass by site, in order. Use a new one for each pass.

    `rewrites` holds what the rewrites did, `states` the state before each, `directions` the raw directions; the two
    latter only with `keep_states`, because they are as large as the network's activations. Interventions change the
    pass: gates that were changed are recorded as changed.
    """

    def __init__(self, interventions: Sequence[Intervention] = (), *, keep_states: bool = False) -> None:
        """Start with no site seen."""
        self.interventions = tuple(interventions)
        self.keep_states = keep_states
        self.rewrites: dict[str, DeltaRewrite] = {}
        self.states: dict[str, Tensor] = {}
        self.directions: dict[str, Tensor] = {}

    def change(self, site: str, beta: Float[Tensor, "b t"]) -> GateChange | None:
        """Return what the interventions want of a site, or None where they leave it alone."""
        return combine(self.interventions, site, beta) if self.interventions else None

    def record(
        self, site: str, rewrite: DeltaRewrite, state: Float[Tensor, "b t d dv"], direction: Float[Tensor, "b t d"]
    ) -> None:
        """Keep one rewrite.

        Raises:
            ValueError: the site was seen already, so the observer was used for more than one pass.
        """
        if site in self.rewrites:
            raise ValueError(f"site {site} was recorded twice: use a new Observer for each forward pass")
        self.rewrites[site] = rewrite
        if self.keep_states:
            self.states[site], self.directions[site] = state, direction

    def eigenvalue(self, site: str, direction_eps: float) -> Float[Tensor, "*n"]:
        """Return `1 - beta |k|^2` at a site, with the |k| slightly below 1 that the guard leaves."""
        seen = self.rewrites[site]
        return delta.eigenvalue(seen.beta, guarded_length(seen.direction_norm, direction_eps))


def guarded_length(direction_norm: Float[Tensor, "*n"], direction_eps: float) -> Float[Tensor, "*n"]:
    """Return the length of k from that of the raw direction: `r / sqrt(r^2 + eps^2)`."""
    return direction_norm / (direction_norm.square() + direction_eps**2).sqrt()
