"""Named observation points: what each rewrite of one forward pass did. Free when nobody looks.

A site is one rewrite, named `LAYER.SUBLAYER` (`0.attn`, `0.mlp`, `1.attn`, ...). A model is given an observer for one
pass and hands it every rewrite; without one, no quantity is kept and compilers drop their computation.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.delta_op import DeltaRewrite

Sublayer = Literal["attn", "mlp"]
SUBLAYERS: tuple[Sublayer, ...] = ("attn", "mlp")


def site_name(layer: int, sublayer: Sublayer) -> str:
    """Return the name of a rewrite."""
    return f"{layer}.{sublayer}"


def site_names(layers: int) -> list[str]:
    """Return the sites of a network in the order in which they rewrite the state."""
    return [site_name(layer, sublayer) for layer in range(layers) for sublayer in SUBLAYERS]


class Observer:
    """Collects the rewrites of one forward pass by site, in order. Use a new one for each pass."""

    def __init__(self) -> None:
        """Start with no site seen."""
        self.rewrites: dict[str, DeltaRewrite] = {}

    def record(self, site: str, rewrite: DeltaRewrite) -> None:
        """Keep one rewrite.

        Raises:
            ValueError: the site was seen already, so the observer was used for more than one pass.
        """
        if site in self.rewrites:
            raise ValueError(f"site {site} was recorded twice: use a new Observer for each forward pass")
        self.rewrites[site] = rewrite

    def eigenvalue(self, site: str, direction_eps: float) -> Float[Tensor, "*n"]:
        """Return `1 - beta |k|^2` at a site, with the |k| slightly below 1 that the guard leaves."""
        seen = self.rewrites[site]
        k_norm = seen.direction_norm / (seen.direction_norm.square() + direction_eps**2).sqrt()
        return delta.eigenvalue(seen.beta, k_norm)
