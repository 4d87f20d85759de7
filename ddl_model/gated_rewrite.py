"""One gated rewrite in a network, wherever its target comes from: generators, formula, interventions, observation."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ddl_model import delta
from ddl_model.config import ResidualConfig
from ddl_model.delta_op import DeltaRewrite, overridden, weighed
from ddl_model.generators import gate_input, make_direction, make_gate, make_normalise
from ddl_model.groups import by_group, per_channel
from ddl_model.interventions import GateChange
from ddl_model.observe import Observer


class GatedRewrite(nn.Module):
    """What all rewrites share: gate `beta = 2 sigmoid(...)`, normalisation and generator of directions, observation.

    A gate is linear in its input, linear in a hidden tanh layer, or linear for each group of value channels: then
    beta and its logit are (b, t, groups) instead of (b, t). `site` names the rewrite for observers.
    """

    erases = True

    def __init__(self, width: int, config: ResidualConfig, site: str) -> None:
        """Make the gate, which the subclass must `open`, then normalisation and generator of directions."""
        super().__init__()
        self.site = site
        self.gate_hidden, self.gate = make_gate(width, config)
        self.guarded = config.direction_norm == "guarded"
        self.grouped = config.gate == "grouped"
        self.target_scale = config.target_scale if config.target_map == "scaled_sigmoid" else 0.0
        self.normalise = make_normalise(config)
        self.direction = make_direction(width, config)

    def open_gate(self, gate_init: float) -> None:
        """Draw the gate's last layer small, around a gate of `gate_init` everywhere."""
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.constant_(self.gate.bias, delta.logit_from_gate(gate_init))

    def logit(self, context: Float[Tensor, "b t d"]) -> Float[Tensor, "b t *g"]:
        """Return the logit of the gate, with an axis of groups where it is grouped."""
        logit = wide_linear(gate_input(context, self.gate_hidden), self.gate.weight, self.gate.bias)
        return logit if self.grouped else logit.squeeze(-1)

    def plain(
        self,
        state: Float[Tensor, "b t d dv"],
        raw: Float[Tensor, "b t d"],
        logit: Float[Tensor, "b t *g"],
        target: Float[Tensor, "b t dv"],
        override: Float[Tensor, "*m 6"] | None = None,
    ) -> DeltaRewrite:
        """Return the rewritten state and the quantities of the rewrite, without the fused operator.

        `override` is as in `delta_rewrite`; the groups of a gate are overridden alike.
        """
        k, raw_norm = self.normalise(raw)
        beta = delta.gate_from_logit(logit)
        read = delta.readout(state.to(k.dtype), k)
        if override is None:
            return DeltaRewrite(self.update(state, k, target, beta), beta, logit, target, read, raw_norm)
        beta, erase, write = overridden(beta, override.unsqueeze(-2) if self.grouped else override)
        if self.grouped:
            erase, write = erase.squeeze(-1), write.squeeze(-1)
        step = weighed(write, target) - (weighed(erase, read) if self.erases else 0.0)
        return DeltaRewrite(by_group(delta.write, state, k, step, beta), beta, logit, target, read, raw_norm)

    def update(
        self,
        state: Float[Tensor, "b t d dv"],
        k: Float[Tensor, "b t d"],
        v: Float[Tensor, "b t dv"],
        beta: Float[Tensor, "b t *g"],
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state by this rule's formula."""
        return by_group(delta.rewrite if self.erases else delta.write, state, k, v, beta)

    def observed(
        self,
        state: Float[Tensor, "b t d dv"],
        raw: Float[Tensor, "b t d"],
        rewrite: DeltaRewrite,
        observer: Observer | None,
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state, as the observer's interventions want it; the observer keeps what was done."""
        if observer is not None:
            change = observer.change(self.site, rewrite.beta)
            if change is not None:
                rewrite = self._changed(state, raw, rewrite, change)
            observer.record(self.site, rewrite, state, raw, None if self.guarded else self.normalise)
        return rewrite.new_state

    def _changed(
        self, state: Float[Tensor, "b t d dv"], raw: Float[Tensor, "b t d"], seen: DeltaRewrite, change: GateChange
    ) -> DeltaRewrite:
        """Return the rewrite as interventions want it: with another gate, without erasing, or without writing."""
        k = self.normalise(raw).k
        if change.erases.all() and change.writes.all():
            return seen._replace(beta=change.beta, new_state=self.update(state, k, seen.target, change.beta))
        written = _only(seen.target, change.writes)
        erased = _only(seen.readout, change.erases) if self.erases else 0.0
        new_state = by_group(delta.write, state, k, written - erased, change.beta)
        return seen._replace(beta=change.beta, new_state=new_state)


def wide_linear(
    values: Float[Tensor, "*n u"], weight: Float[Tensor, "g u"], bias: Float[Tensor, " g"]
) -> Float[Tensor, "*n g"]:
    """Return `W u + b` in the dtype of sums, as the fused operator computes its gate and its target."""
    dtype = delta.sum_dtype(values.dtype)
    return nn.functional.linear(values.to(dtype), weight.to(dtype), bias.to(dtype))


def _only(values: Float[Tensor, "b t dv"], mask: Bool[Tensor, "b t *g"]) -> Float[Tensor, "b t dv"]:
    """Return the values where the mask holds, else 0."""
    return torch.where(per_channel(mask, values), values, 0.0)
