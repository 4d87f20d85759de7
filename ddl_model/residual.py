"""How a sublayer's output enters the state: rewrite, write without erasing, or addition, behind one signature."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model import delta
from ddl_model.config import ResidualConfig
from ddl_model.delta_op import DeltaRewrite, delta_rewrite
from ddl_model.interventions import GateChange
from ddl_model.observe import Observer


class Residual(nn.Module):
    """The signature that all rules share; `site` names the rewrite for observers."""

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
        """Return the next state from the sublayer's `output`.

        `context` is the sublayer's input after its norm, `compressed` the same before the norm.
        """
        raise NotImplementedError


class DeltaResidual(Residual):
    """Rewrite the state along the sublayer's output: `X + beta k (v - k^T X)^T`. Source: DDL Eq. 2.2.

    Gate: `beta = 2 sigmoid(W_b c + b_b)`, or `2 sigmoid(W_b tanh(W_h c) + b_b)` where the config asks for two layers.
    Target: `v = W_v u + b_v` of context or compressed input, its scaled sigmoid, or a constant.
    """

    erases = True
    target_weight: Tensor
    target_bias: Tensor

    def __init__(self, width: int, config: ResidualConfig, value_channels: int, site: str) -> None:
        """Make the gate's and the target's projections; the gate starts open to `config.gate_init` everywhere."""
        super().__init__(site)
        self.direction_eps = config.direction_eps
        self.target_from_context = config.target_input == "context"
        self.target_scale = config.target_scale if config.target_map == "scaled_sigmoid" else 0.0
        two_layers = config.gate == "two_layer"
        self.gate_hidden = nn.Linear(width, config.gate_hidden_width, bias=False) if two_layers else None
        self.gate = nn.Linear(config.gate_hidden_width if two_layers else width, 1)
        self.target = None if config.target_map == "constant" else nn.Linear(width, value_channels)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.constant_(self.gate.bias, delta.logit_from_gate(config.gate_init))
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
        """See `Residual.forward`."""
        rewrite = self.rewrite(
            state,
            output,
            context if self.gate_hidden is None else torch.tanh(self.gate_hidden(context)),
            context if self.target_from_context else compressed,
        )
        if observer is not None:
            change = observer.change(self.site, rewrite.beta)
            if change is not None:
                rewrite = self._changed(state, output, rewrite, change)
            observer.record(self.site, rewrite, state, output)
        return rewrite.new_state

    def rewrite(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        gate_input: Float[Tensor, "b t g"],
        target_input: Float[Tensor, "b t d"],
    ) -> DeltaRewrite:
        """Return the rewritten state and the quantities of the rewrite."""
        return delta_rewrite(
            state,
            output,
            gate_input,
            target_input,
            self.gate.weight,
            self.gate.bias,
            self.target_weight if self.target is None else self.target.weight,
            self.target_bias if self.target is None else self.target.bias,
            direction_eps=self.direction_eps,
            target_scale=self.target_scale,
        )

    def update(
        self,
        state: Float[Tensor, "b t d dv"],
        k: Float[Tensor, "b t d"],
        v: Float[Tensor, "b t dv"],
        beta: Float[Tensor, "b t"],
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state by this rule's formula."""
        return delta.rewrite(state, k, v, beta)

    def _changed(
        self, state: Float[Tensor, "b t d dv"], output: Float[Tensor, "b t d"], seen: DeltaRewrite, change: GateChange
    ) -> DeltaRewrite:
        """Return the rewrite as interventions want it: with another gate, without erasing, or without writing."""
        k = delta.unit_direction(output, self.direction_eps).k
        if change.erases.all() and change.writes.all():
            return seen._replace(beta=change.beta, new_state=self.update(state, k, seen.target, change.beta))
        written = torch.where(change.writes.unsqueeze(-1), seen.target, 0.0)
        erased = torch.where(change.erases.unsqueeze(-1), seen.readout, 0.0) if self.erases else 0.0
        return seen._replace(beta=change.beta, new_state=delta.write(state, k, written - erased, change.beta))


class WriteOnlyResidual(DeltaResidual):
    """Write without erasing: `X + beta k v^T`, everything else as in the rewrite. Source: DDL section 5, control."""

    erases = False

    def rewrite(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        gate_input: Float[Tensor, "b t g"],
        target_input: Float[Tensor, "b t d"],
    ) -> DeltaRewrite:
        """Return the state after the write, and the same quantities as a rewrite has."""
        seen = super().rewrite(state, output, gate_input, target_input)
        k = delta.unit_direction(output, self.direction_eps).k
        return seen._replace(new_state=self.update(state, k, seen.target, seen.beta))

    def update(
        self,
        state: Float[Tensor, "b t d dv"],
        k: Float[Tensor, "b t d"],
        v: Float[Tensor, "b t dv"],
        beta: Float[Tensor, "b t"],
    ) -> Float[Tensor, "b t d dv"]:
        """See the base class."""
        return delta.write(state, k, v, beta)


class AdditiveResidual(Residual):
    """Add the sublayer's output to every value channel of the state: the residual network to compare with."""

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """See `Residual.forward`. There is no gate to observe."""
        return state + output.unsqueeze(-1)


def make_residual(width: int, config: ResidualConfig, value_channels: int, site: str) -> Residual:
    """Return the residual rule that the config names."""
    match config.rule:
        case "delta":
            return DeltaResidual(width, config, value_channels, site)
        case "write_only":
            return WriteOnlyResidual(width, config, value_channels, site)
        case "additive":
            return AdditiveResidual(site)
