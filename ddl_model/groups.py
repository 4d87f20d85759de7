"""Gates per group of value channels: the same formulas, once per equal run of neighbouring channels.

A plain gate has the axes `*n` of its tokens; a grouped one has an axis of its g groups behind them, and a group has
dv / g value channels. All groups share the token's direction.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A rewrite by a plain gate, from state, k, v and beta: `delta.rewrite` or `delta.write`."""


def by_group(
    formula: Formula,
    state: Float[Tensor, "*n d dv"],
    k: Float[Tensor, "*n d"],
    v: Float[Tensor, "*n dv"],
    beta: Tensor,
) -> Float[Tensor, "*n d dv"]:
    """Apply a formula with a plain gate (*n), or with a grouped one (*n, g) to each group by itself."""
    if beta.ndim < k.ndim:
        return formula(state, k, v, beta)
    groups = beta.shape[-1]
    apart = state.unflatten(-1, (groups, -1)).movedim(-2, -3)
    directions = k.unsqueeze(-2).expand(*beta.shape, k.shape[-1])
    return formula(apart, directions, v.unflatten(-1, (groups, -1)), beta).movedim(-3, -2).flatten(-2)


def per_channel(gate: Tensor, values: Float[Tensor, "*n dv"]) -> Tensor:
    """Return what applies to each value channel: a plain gate (or mask) as (*n, 1), a grouped one as (*n, dv)."""
    if gate.ndim < values.ndim:
        return gate.unsqueeze(-1)
    return gate.repeat_interleave(values.shape[-1] // gate.shape[-1], dim=-1)
