"""How a sublayer's output enters the state: rewrite, write without erasing, or addition, behind one signature."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.compress import Reading
from ddl_model.compress_op import Compressed, delta_rewrite_compress_norm
from ddl_model.config import ResidualConfig
from ddl_model.delta_op import RewriteArguments, RewriteOptions, delta_rewrite
from ddl_model.gated_rewrite import GatedRewrite, wide_linear
from ddl_model.generators import bound_target, gate_input
from ddl_model.observe import Observer


class Residual(Protocol):
    """The signature that all rules share; `site` names the rewrite for observers."""

    def __call__(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        seen: Compressed,
        following: Reading,
        observer: Observer | None = None,
    ) -> tuple[Float[Tensor, "b t d dv"], Compressed]:
        """Return the next state from the sublayer's `output`, and what `following` reads of it.

        `seen` is what the sublayer itself read: its input before and after its norm.
        """
        ...


class DeltaResidual(GatedRewrite):
    """Rewrite the state along the sublayer's output: `X + beta k (v - k^T X)^T`. Source: DDL Eq. 2.2.

    Gate: `beta = 2 sigmoid(W_b c + b_b)`, or `2 sigmoid(W_b tanh(W_h c) + b_b)` where the config asks for two layers,
    or the first for each group of value channels. Target: `v = W_v u + b_v` of context, compressed input or output,
    its scaled sigmoid, or a constant. A direction from the state instead (`ddl_model.generators`), with the output as
    target, is the paper's first edition on tokens.

    Guarded directions under one gate per token run through the fused operators of `ddl_model.compress_op`, together
    with the reading after them; all others, and passes with interventions, through plain torch.
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
        seen: Compressed,
        following: Reading,
        observer: Observer | None = None,
    ) -> tuple[Float[Tensor, "b t d dv"], Compressed]:
        """See `Residual.__call__`."""
        raw = self.direction(state, output)
        inputs = {"context": seen.context, "compressed": seen.compressed, "output": output}
        override = None if observer is None else observer.overrides.get(self.site)
        weight = self.target_weight if self.target is None else self.target.weight
        bias = self.target_bias if self.target is None else self.target.bias
        if not self.fused:
            target = bound_target(wide_linear(inputs[self.target_input], weight, bias), self.target_scale)
            rewrite = self.plain(state, raw, self.logit(seen.context), target, override)
            new_state = self.observed(state, raw, rewrite, observer)
            return new_state, following(new_state)
        context = gate_input(seen.context, self.gate_hidden)
        arguments = RewriteArguments(
            state, raw, context, inputs[self.target_input], self.gate.weight, self.gate.bias, weight, bias
        )
        options = RewriteOptions(self.direction_eps, self.target_scale, self.erases)
        if observer is not None and observer.interventions:
            new_state = self.observed(state, raw, delta_rewrite(arguments, options), observer)
            return new_state, following(new_state)
        reading = following.arguments(state)
        rewrite, read = delta_rewrite_compress_norm(arguments, reading, options, override)
        new_state = self.observed(state, raw, rewrite, observer)
        following.remember(reading, new_state)
        return new_state, read


class WriteOnlyResidual(DeltaResidual):
    """Write without erasing: `X + beta k v^T`, everything else as in the rewrite. Source: DDL section 5, control."""

    erases = False


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
        seen: Compressed,
        following: Reading,
        observer: Observer | None = None,
    ) -> tuple[Float[Tensor, "b t d dv"], Compressed]:
        """See `Residual.__call__`. There is no gate: the observer keeps the addition."""
        new_state = state + output.unsqueeze(-1)
        if observer is not None:
            observer.record_addition(self.site, state, output, new_state)
        return new_state, following(new_state)


def make_residual(width: int, config: ResidualConfig, value_channels: int, site: str) -> nn.Module:
    """Return the residual rule that the config names, a module with the signature of `Residual`."""
    match config.rule:
        case "delta":
            return DeltaResidual(width, config, value_channels, site)
        case "write_only":
            return WriteOnlyResidual(width, config, value_channels, site)
        case "additive":
            return AdditiveResidual(site)
