"""Named observation points: what each residual of one forward pass did, and what it should do instead.

A site is one residual, named `LAYER.SUBLAYER` (`0.attn`, `0.mlp`, `1.attn`, ...). A model is given an observer for one
pass and hands it every rewrite, or every addition where it only adds; without one, no quantity is kept and compilers
drop their computation. `ddl_model.quantities` turns what was seen into the names of the gates API.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.delta_op import DeltaRewrite
from ddl_model.generators import Normalise
from ddl_model.interventions import GateChange, Intervention, combine

Sublayer = Literal["attn", "mlp"]
SUBLAYERS: tuple[Sublayer, ...] = ("attn", "mlp")


def site_name(layer: int, sublayer: Sublayer) -> str:
    """Return the name of a residual."""
    return f"{layer}.{sublayer}"


def site_names(layers: int) -> list[str]:
    """Return the sites of a network in the order in which they change the state."""
    return [site_name(layer, sublayer) for layer in range(layers) for sublayer in SUBLAYERS]


class Addition(NamedTuple):
    """What an additive residual did: the sublayer's output, added to every value channel, and the new state."""

    new_state: Float[Tensor, "b t d dv"]
    output: Float[Tensor, "b t d"]


class Observer:
    """Collects the residuals of one forward pass by site, in order. Use a new one for each pass.

    `rewrites` holds what the rewrites did, `additions` what an additive network did instead; `states` the state before
    each, `directions` the raw directions; the two latter only with `keep_states`, because they are as large as the
    network's activations. `normalises` holds how k is made of its raw direction at sites that do not guard it as
    usual; what is computed with them has gradients to a learned length. Interventions change the pass: gates that were
    changed are recorded as changed, and `changes` tells where erasing or writing was left out. `overrides` holds the
    same for passes that compilers see, six numbers a site: see `ddl_model.delta_op.delta_rewrite`.

    A grouped gate has its groups as last axis: `beta` and `gate_logit` are (b, t, groups) there.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention] = (),
        *,
        keep_states: bool = False,
        overrides: Mapping[str, Float[Tensor, "*m 6"]] | None = None,
    ) -> None:
        """Start with no site seen."""
        self.interventions = tuple(interventions)
        self.keep_states = keep_states
        self.overrides = dict(overrides or {})
        self.changes: dict[str, GateChange] = {}
        self.rewrites: dict[str, DeltaRewrite] = {}
        self.additions: dict[str, Addition] = {}
        self.states: dict[str, Tensor] = {}
        self.directions: dict[str, Tensor] = {}
        self.normalises: dict[str, Normalise] = {}

    def change(self, site: str, beta: Float[Tensor, "b t *g"]) -> GateChange | None:
        """Return what the interventions want of a site, or None where they leave it alone."""
        if not self.interventions:
            return None
        change = combine(self.interventions, site, beta)
        if change is not None:
            self.changes[site] = change
        return change

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
        self._keep(site, state, direction)
        self.rewrites[site] = rewrite
        if normalise is not None:
            self.normalises[site] = normalise

    def record_addition(
        self,
        site: str,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        new_state: Float[Tensor, "b t d dv"],
    ) -> None:
        """Keep one addition of a sublayer's output to every value channel; the output is the direction as well.

        Raises:
            ValueError: as `record`.
        """
        self._keep(site, state, output)
        self.additions[site] = Addition(new_state, output)

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

    def step_gates(
        self, site: str, beta: Float[Tensor, "b t *g"]
    ) -> tuple[Float[Tensor, "b t *g"], Float[Tensor, "b t *g"]]:
        """Return the gates with which a delta rewrite erased and wrote: both `beta`, 0 where either was left out."""
        if site in self.changes:
            change = self.changes[site]
            return torch.where(change.erases, beta, 0.0), torch.where(change.writes, beta, 0.0)
        if site in self.overrides:
            erase, write = self.overrides[site].to(beta.dtype)[..., 4:].unbind(-1)
            return beta * erase, beta * write
        return beta, beta

    def _keep(self, site: str, state: Tensor, direction: Tensor) -> None:
        if site in self.rewrites or site in self.additions:
            raise ValueError(f"site {site} was recorded twice: use a new Observer for each forward pass")
        if self.keep_states:
            self.states[site], self.directions[site] = state, direction
