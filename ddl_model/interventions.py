"""Interventions on the gates of one forward pass: what would the network say if this gate did something else?

A closed list, as the gates API names them. Later entries win where they meet on the same site and position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Operation = Literal["set", "scale", "clamp", "mean", "patch", "drop_erase", "drop_write"]


@dataclass(frozen=True, eq=False)
class Intervention:
    """One change, at the given sites (all where None) and positions of the pass (all where None).

    - `set`: beta becomes `value`. `scale`: beta becomes `value * beta`, cut to [0, 2].
    - `clamp`: beta is cut to [`low`, `high`]. `mean`: beta becomes its mean over the row's positions at the site.
    - `patch`: beta becomes that of another run, `betas[site]` of shape (b, t) or (t,).
    - `drop_erase`: X' = X + beta k v^T. `drop_write`: X' = X - beta k k^T X. Both are ablations at inference; the
      trained control without erasure is the residual rule `write_only`.

    Positions may be negative, counted from the end of the row. Gates that are grouped by value channels have the shape
    (b, t, groups): every group is changed alike, and a patch for them is (b, t, groups) or (t, groups).
    """

    operation: Operation
    value: float = 0.0
    low: float = 0.0
    high: float = 2.0
    betas: dict[str, Tensor] = field(default_factory=dict)
    sites: tuple[str, ...] | None = None
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse values that no gate can take.

        Raises:
            ValueError: the operation is none of these, a number is outside its range, or `patch` has nothing to patch
                with.
        """
        if self.operation not in get_args(Operation):
            raise ValueError(f"operation must be one of {', '.join(get_args(Operation))}, got {self.operation!r}")
        if self.operation == "set" and not 0.0 <= self.value <= 2.0:
            raise ValueError(f"set: value must lie in [0, 2], got {self.value}")
        if self.operation == "scale" and not 0.0 <= self.value < float("inf"):
            raise ValueError(f"scale: value must be at least 0 and finite, got {self.value}")
        if self.operation == "clamp" and not 0.0 <= self.low <= self.high <= 2.0:
            raise ValueError(f"clamp: need 0 <= low <= high <= 2, got {self.low} and {self.high}")
        if self.operation == "patch" and not self.betas:
            raise ValueError("patch: give betas, the gates of the other run by site")

    def concerns(self, site: str) -> bool:
        """Tell whether the site is among those to change; a patch concerns the sites it has gates for."""
        named = self.sites is None or site in self.sites
        return named and (self.operation != "patch" or site in self.betas)

    def new_gate(self, site: str, beta: Float[Tensor, "b t *g"]) -> Float[Tensor, "b t *g"]:
        """Return what the gate becomes where the intervention applies.

        Raises:
            ValueError: a patch does not have the shape of the gate.
        """
        match self.operation:
            case "set":
                return torch.full_like(beta, self.value)
            case "scale":
                return (self.value * beta).clamp(0.0, 2.0)
            case "clamp":
                return beta.clamp(self.low, self.high)
            case "mean":
                return beta.mean(dim=1, keepdim=True).expand_as(beta)
            case "patch":
                other = self.betas[site]
                if other.shape not in (beta.shape, beta.shape[1:], (1, *beta.shape[1:])):
                    got, wanted = tuple(other.shape), tuple(beta.shape)
                    raise ValueError(f"patch: betas[{site!r}] has shape {got}, the site's gate has {wanted}")
                return other.to(beta).expand_as(beta)
            case _:
                return beta

    def mask(self, beta: Float[Tensor, "b t *g"]) -> Bool[Tensor, "b t *g"]:
        """Return where the intervention applies.

        Raises:
            ValueError: a position is outside the row.
        """
        tokens = beta.shape[1]
        if self.positions is None:
            return torch.ones_like(beta, dtype=torch.bool)
        if outside := [p for p in self.positions if not -tokens <= p < tokens]:
            raise ValueError(f"position {outside[0]} is outside the {tokens} positions of this pass")
        chosen = torch.zeros(tokens, dtype=torch.bool, device=beta.device)
        chosen[list(self.positions)] = True
        return chosen.view(-1, *(1,) * (beta.ndim - 2)).expand_as(beta)


@dataclass(frozen=True)
class GateChange:
    """What interventions come to at one site: the gate, and where erasing or writing is left out."""

    beta: Float[Tensor, "b t *g"]
    erases: Bool[Tensor, "b t *g"]
    writes: Bool[Tensor, "b t *g"]


def combine(interventions: Sequence[Intervention], site: str, beta: Float[Tensor, "b t *g"]) -> GateChange | None:
    """Return what the interventions do at a site, or None where they leave it alone."""
    concerned = [intervention for intervention in interventions if intervention.concerns(site)]
    if not concerned:
        return None
    erases = torch.ones_like(beta, dtype=torch.bool)
    writes = torch.ones_like(beta, dtype=torch.bool)
    for intervention in concerned:
        here = intervention.mask(beta)
        beta = torch.where(here, intervention.new_gate(site, beta), beta)
        if intervention.operation == "drop_erase":
            erases = erases & ~here
        elif intervention.operation == "drop_write":
            writes = writes & ~here
    return GateChange(beta, erases, writes)
