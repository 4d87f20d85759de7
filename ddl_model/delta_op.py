"""The rewrite with its gate and target as one torch operator, `ddl::delta_rewrite`.

The operator is composite: eager torch, autograd and `torch.compile` see the plain formula of `delta.py`, while the
exporter finds one node to translate. A faster kernel registers itself on the operator for its device; the model
never imports one.
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta

_LIBRARY = torch.library.Library("ddl", "DEF")
_LIBRARY.define(
    "delta_rewrite(Tensor state, Tensor direction, Tensor context, Tensor target_input, "
    "Tensor gate_weight, Tensor gate_bias, Tensor target_weight, Tensor target_bias, "
    "float direction_eps, float target_scale) "
    "-> (Tensor new_state, Tensor beta, Tensor gate_logit, Tensor target, Tensor readout, Tensor direction_norm)"
)


class DeltaRewrite(NamedTuple):
    """The rewritten state and the quantities of the rewrite, in the order of the ONNX op's outputs."""

    new_state: Float[Tensor, "*n d dv"]
    beta: Float[Tensor, "*n"]
    gate_logit: Float[Tensor, "*n"]
    target: Float[Tensor, "*n dv"]
    readout: Float[Tensor, "*n dv"]
    direction_norm: Float[Tensor, "*n"]


def plain_delta_rewrite(
    state: Tensor,
    direction: Tensor,
    context: Tensor,
    target_input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    target_weight: Tensor,
    target_bias: Tensor,
    direction_eps: float,
    target_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the operator by the formulas of `delta.py`; see `delta_rewrite` for shapes."""
    dtype = delta.sum_dtype(state.dtype)
    k, direction_norm = delta.unit_direction(direction.to(dtype), direction_eps)
    logit = (context.to(dtype) @ gate_weight.to(dtype).T + gate_bias.to(dtype)).squeeze(-1)
    beta = delta.gate_from_logit(logit)
    target = target_input.to(dtype) @ target_weight.to(dtype).T + target_bias.to(dtype)
    if target_scale > 0:
        target = target_scale * torch.sigmoid(target)
    read = delta.readout(state.to(dtype), k)
    new_state = delta.rewrite(state, k, target, beta)
    return new_state, beta, logit, target, read, direction_norm


_LIBRARY.impl("delta_rewrite", plain_delta_rewrite, "CompositeImplicitAutograd")


def delta_rewrite(
    state: Float[Tensor, "*n d dv"],
    direction: Float[Tensor, "*n d"],
    context: Float[Tensor, "*n g"],
    target_input: Float[Tensor, "*n u"],
    gate_weight: Float[Tensor, "1 g"],
    gate_bias: Float[Tensor, "1"],
    target_weight: Float[Tensor, "dv u"],
    target_bias: Float[Tensor, " dv"],
    *,
    direction_eps: float,
    target_scale: float = 0.0,
) -> DeltaRewrite:
    """Rewrite the state by a gate and a target that are linear in their inputs.

    `direction` is raw (not normalised); beta = 2 sigmoid(W_b c + b_b); v = W_v u + b_v, squashed to
    `target_scale * sigmoid(v)` where `target_scale` is above 0. Quantities beside the state come in float32
    (float64 for float64 inputs). Source: DDL Eq. 2.2.
    """
    out = torch.ops.ddl.delta_rewrite(
        state,
        direction,
        context,
        target_input,
        gate_weight,
        gate_bias,
        target_weight,
        target_bias,
        direction_eps,
        target_scale,
    )
    return DeltaRewrite(*cast(tuple[Tensor, ...], out))
