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
from ddl_model.generators import Normalise
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
    latter only with `keep_states`, because they are as large as the network's activations. `normalises` holds how k
    is made of its raw direction at sites that do not guard it as usual; what is computed with them has gradients to a
    learned length. Interventions change the pass: gates that were changed are recorded as changed.

    A grouped gate has its groups as last axis: `beta` and `gate_logit` are (b, t, groups) there.
    """

    def __init__(self, interventions: Sequence[Intervention] = (), *, keep_states: bool = False) -> None:
        """Start with no site seen."""
        self.interventions = tuple(interventions)
        self.keep_states = keep_states
        self.rewrites: dict[str, DeltaRewrite] = {}
        self.states: dict[str, Tensor] = {}
        self.directions: dict[str, Tensor] = {}
        self.normalises: dict[str, Normalise] = {}

    def change(self, site: str, beta: Float[Tensor, "b t *g"]) -> GateChange | None:
        """Return what the interventions want of a site, or None where they leave it alone."""
        return combine(self.interventions, site, beta) if self.interventions else None

    def record(
        self,
        site: str,
        rewrite: DeltaRewrite,
        state: Float[Tensor, "b t d dv"],
        direction: Float[Tensor, "b t d"],
        normalise: Normalise | None = None,
    ) -> None:
        """Keep one rewrite; `direction` is raw, and `normalise` makes k of it where it is not guarded as usual.

        Raises:
            ValueError: the site was seen already, so the observer was used for more than one pass.
        """
        if site in self.rewrites:
            raise ValueError(f"site {site} was recorded twice: use a new Observer for each forward pass")
        self.rewrites[site] = rewrite
        if normalise is not None:
            self.normalises[site] = normalise
        if self.keep_states:
            self.states[site], self.directions[site] = state, direction

    def normalise(self, site: str, direction_eps: float) -> Normalise:
        """Return what makes k of a site's raw direction; `direction_eps` is the guard of those that are guarded."""
        return self.normalises.get(site) or Normalise(direction_eps)

    def length(self, site: str, direction_eps: float) -> Float[Tensor, "*n"]:
        """Return |k| at a site."""
        return self.normalise(site, direction_eps).length(self.rewrites[site].direction_norm)

    def eigenvalue(self, site: str, direction_eps: float) -> Tensor:
        """Return `1 - beta |k|^2` at a site, of each group where its gate is grouped: the shape is that of beta."""
        beta, length = self.rewrites[site].beta, self.length(site, direction_eps)
        return delta.eigenvalue(beta, length if beta.ndim == length.ndim else length.unsqueeze(-1).expand_as(beta))
