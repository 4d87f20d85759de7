"""The rewrite with its gate and target as one torch operator, `ddl::delta_rewrite`.

The operator is composite: eager torch, autograd and `torch.compile` see the plain formula of `delta.py`, while the
exporter finds one node to translate. A faster kernel registers itself on the operator for its device; the model
never imports one.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.compiled_formulas import mark, sources

OVERRIDE_FIELDS = ("scale", "shift", "low", "high", "erase", "write")
"""The six numbers of an override, on its last axis; see `delta_rewrite`."""

NO_OVERRIDE = (1.0, 0.0, 0.0, 2.0, 1.0, 1.0)
"""The override that changes nothing."""

REWRITE_ARGUMENTS = (
    "Tensor state, Tensor direction, Tensor context, Tensor target_input, "
    "Tensor gate_weight, Tensor gate_bias, Tensor target_weight, Tensor target_bias"
)
REWRITE_OPTIONS = "float direction_eps, float target_scale, bool erases, Tensor? override"
REWRITE_TRACE = "Tensor beta, Tensor gate_logit, Tensor target, Tensor readout, Tensor direction_norm"

LIBRARY = torch.library.Library("ddl", "DEF")
LIBRARY.define(
    f"delta_rewrite({REWRITE_ARGUMENTS}, {REWRITE_OPTIONS}) -> (Tensor new_state, {REWRITE_TRACE})",
)


class DeltaRewrite(NamedTuple):
    """The rewritten state and the quantities of the rewrite, in the order of the ONNX op's outputs."""

    new_state: Float[Tensor, "*n d dv"]
    beta: Float[Tensor, "*n"]
    gate_logit: Float[Tensor, "*n"]
    target: Float[Tensor, "*n dv"]
    readout: Float[Tensor, "*n dv"]
    direction_norm: Float[Tensor, "*n"]


class RewriteArguments(NamedTuple):
    """What a rewrite is made of, in the order of the operator's arguments.

    `direction` is raw (not normalised). The gate is `beta = 2 sigmoid(W_b c + b_b)`, the target `v = W_v u + b_v`.
    """

    state: Float[Tensor, "*n d dv"]
    direction: Float[Tensor, "*n d"]
    context: Float[Tensor, "*n g"]
    target_input: Float[Tensor, "*n u"]
    gate_weight: Float[Tensor, "1 g"]
    gate_bias: Float[Tensor, "1"]
    target_weight: Float[Tensor, "dv u"]
    target_bias: Float[Tensor, " dv"]


class RewriteOptions(NamedTuple):
    """What a rewrite does with its arguments, in the order of the operator's.

    `direction_eps` guards the normalisation of directions. Above 0, `target_scale` squashes targets to
    `target_scale * sigmoid(v)`. Without `erases` the rewrite only writes: `X + beta k v^T`.
    """

    direction_eps: float
    target_scale: float = 0.0
    erases: bool = True


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast leaves sums alone: they are float32 whatever surrounds the operator."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


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
    erases: bool,
    override: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the operator by the formulas of `delta.py`; see `delta_rewrite` for shapes."""
    dtype = delta.sum_dtype(state.dtype)
    with full_precision(state.device):
        k, direction_norm = delta.unit_direction(direction.to(dtype), direction_eps)
        logit = (context.to(dtype) @ gate_weight.to(dtype).T + gate_bias.to(dtype)).squeeze(-1)
        beta = delta.gate_from_logit(logit)
        target = target_input.to(dtype) @ target_weight.to(dtype).T + target_bias.to(dtype)
        if target_scale > 0:
            target = target_scale * torch.sigmoid(target)
        read = delta.readout(state.to(dtype), k)
        if override is None:
            new_state = (delta.rewrite if erases else delta.write)(state, k, target, beta)
        else:
            beta, erase, write = overridden(beta, override)
            wanted = weighed(write, target)
            new_state = delta.write(state, k, wanted - weighed(erase, read) if erases else wanted, beta)
    return new_state, beta, logit, target, read, direction_norm


LIBRARY.impl("delta_rewrite", plain_delta_rewrite, "CompositeImplicitAutograd")
mark(sources(__file__, delta.__file__))


def delta_rewrite(
    arguments: RewriteArguments, options: RewriteOptions, override: Float[Tensor, "*m 6"] | None = None
) -> DeltaRewrite:
    """Rewrite the state by a gate and a target that are linear in their inputs.

    Quantities beside the state come in float32 (float64 for float64 inputs).

    `override` changes gates, for all tokens alike or for each one: beta becomes `scale * beta + shift`, or `shift`
    where `scale` is 0, cut to [`low`, `high`]; `erase` and `write` weigh readout and target in the step
    `beta (write v - erase k^T X)`, and at 0 leave them out. Source: DDL Eq. 2.2.
    """
    out = torch.ops.ddl.delta_rewrite(*arguments, *options, override)
    return DeltaRewrite(*cast(tuple[Tensor, ...], out))


def overridden(beta: Float[Tensor, "*n"], override: Float[Tensor, "*m 6"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gate that an override makes of `beta`, and its factors of readout and target."""
    scale, shift, low, high, erase, write = override.to(beta.dtype).unbind(-1)
    changed = torch.where(scale == 0, shift, scale * beta + shift)
    changed = torch.where(changed < low, low, changed)
    return torch.where(changed > high, high, changed), erase, write


def weighed(factor: Float[Tensor, "*m"], values: Float[Tensor, "*n dv"]) -> Float[Tensor, "*n dv"]:
    """Return the values times a factor for all channels; a factor of 0 leaves out even what is no finite number."""
    factor = factor.unsqueeze(-1)
    return torch.where(factor == 0, 0.0, factor * values)
