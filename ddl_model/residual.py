"""How a sublayer's output enters the state: rewrite, write without erasing, or addition, behind one signature."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.config import ResidualConfig
from ddl_model.delta_op import DeltaRewrite, delta_rewrite
from ddl_model.gated_rewrite import GatedRewrite, wide_linear
from ddl_model.generators import bound_target, gate_input
from ddl_model.observe import Observer


class Residual(Protocol):
    """The signature that all rules share; `site` names the rewrite for observers."""

    def __call__(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state from the sublayer's `output`.

        `context` is the sublayer's input after its norm, `compressed` the same before the norm.
        """
        ...


class DeltaResidual(GatedRewrite):
    """Rewrite the state along the sublayer's output: `X + beta k (v - k^T X)^T`. Source: DDL Eq. 2.2.

    Gate: `beta = 2 sigmoid(W_b c + b_b)`, or `2 sigmoid(W_b tanh(W_h c) + b_b)` where the config asks for two layers,
    or the first for each group of value channels. Target: `v = W_v u + b_v` of context, compressed input or output,
    its scaled sigmoid, or a constant. A direction from the state instead (`ddl_model.generators`), with the output as
    target, is the paper's first edition on tokens.

    Guarded directions under one gate per token run through `ddl::delta_rewrite`, all others through plain torch.
    """

    target_weight: Tensor
    target_bias: Tensor

    def __init__(self, width: int, config: ResidualConfig, value_channels: int, site: str) -> None:
        """Make the gate's and the target's projections; the gate starts open to `config.gate_init` everywhere."""
        super().__init__(width, config, site)
        self.direction_eps = config.direction_eps
        self.target_input = config.target_input
        self.fused = self.guarded and not self.grouped
        self.target = None if config.target_map == "constant" else nn.Linear(width, value_channels)
        self.open_gate(config.gate_init)
        if self.target is None:
            # No weights: the target's projection is zero and its bias is the constant.
            self.register_buffer("target_weight", torch.zeros(value_channels, width), persistent=False)
            self.register_buffer("target_bias", torch.full((value_channels,), config.target_value), persistent=False)
        else:
            nn.init.normal_(self.target.weight, std=width**-0.5)
            nn.init.zeros_(self.target.bias)

    def draw_target_bias(self, width: int) -> None:
        """Start the target's bias as the authors do, uniform within 1 / sqrt(width)."""
        if self.target is not None:
            nn.init.uniform_(self.target.bias, -(width**-0.5), width**-0.5)

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """See `Residual.__call__`."""
        raw = self.direction(state, output)
        target_input = {"context": context, "compressed": compressed, "output": output}[self.target_input]
        return self.observed(state, raw, self.rewrite(state, raw, context, target_input), observer)

    def rewrite(
        self,
        state: Float[Tensor, "b t d dv"],
        raw: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        target_input: Float[Tensor, "b t d"],
    ) -> DeltaRewrite:
        """Return the rewritten state and the quantities of the rewrite along a raw direction."""
        weight = self.target_weight if self.target is None else self.target.weight
        bias = self.target_bias if self.target is None else self.target.bias
        if not self.fused:
            target = bound_target(wide_linear(target_input, weight, bias), self.target_scale)
            return self.plain(state, raw, self.logit(context), target)
        return delta_rewrite(
            state,
            raw,
            gate_input(context, self.gate_hidden),
            target_input,
            self.gate.weight,
            self.gate.bias,
            weight,
            bias,
            direction_eps=self.direction_eps,
            target_scale=self.target_scale,
        )


class WriteOnlyResidual(DeltaResidual):
    """Write without erasing: `X + beta k v^T`, everything else as in the rewrite. Source: DDL section 5, control."""

    erases = False

    def rewrite(
        self,
        state: Float[Tensor, "b t d dv"],
        raw: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        target_input: Float[Tensor, "b t d"],
    ) -> DeltaRewrite:
        """Return the state after the write, and the same quantities as a rewrite has."""
        seen = super().rewrite(state, raw, context, target_input)
        if not self.fused:
            return seen
        return seen._replace(new_state=self.update(state, self.normalise(raw).k, seen.target, seen.beta))


class AdditiveResidual(nn.Module):
    """Add the sublayer's output to every value channel of the state: the residual network to compare with."""

    def __init__(self, site: str) -> None:
        """Keep the name of the site."""
        super().__init__()
        self.site = site

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """See `Residual.__call__`. There is no gate to observe."""
        return state + output.unsqueeze(-1)


def make_residual(width: int, config: ResidualConfig, value_channels: int, site: str) -> nn.Module:
    """Return the residual rule that the config names, a module with the signature of `Residual`."""
    match config.rule:
        case "delta":
            return DeltaResidual(width, config, value_channels, site)
        case "write_only":
            return WriteOnlyResidual(width, config, value_channels, site)
        case "additive":
            return AdditiveResidual(site)
