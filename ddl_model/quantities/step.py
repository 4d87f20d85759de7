"""What one site did, and every quantity that follows from it alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.delta_op import DeltaRewrite
from ddl_model.generators import Normalise, ScaledNormalise
from ddl_model.groups import per_channel


@dataclass(frozen=True, eq=False)
class Gates:
    """A rewrite, the length of its direction, and the gates with which it erased and wrote."""

    rewrite: DeltaRewrite
    k_norm: Float[Tensor, "b t"]
    erase: Float[Tensor, "b t *g"]
    write: Float[Tensor, "b t *g"]

    @cached_property
    def e_pre(self) -> Float[Tensor, "b t dv"]:
        """The discrepancy before the rewrite, with the sign of the paper: p - v."""
        return self.rewrite.readout - self.rewrite.target

    @property
    def eigenvalue(self) -> Float[Tensor, "b t *g"]:
        """What is left of the discrepancy, 1 - beta |k|^2: 1 where erasing was left out."""
        length = self.k_norm
        grouped = self.erase.ndim > length.ndim
        return delta.eigenvalue(self.erase, length.unsqueeze(-1).expand_as(self.erase) if grouped else length)

    @cached_property
    def erase_norm(self) -> Float[Tensor, "b t"]:
        """The length of what was taken away."""
        return self._moved(self.erase, self.rewrite.readout)

    @cached_property
    def write_norm(self) -> Float[Tensor, "b t"]:
        """The length of what was put in."""
        return self._moved(self.write, self.rewrite.target)

    def _moved(self, gate: Tensor, values: Float[Tensor, "b t dv"]) -> Float[Tensor, "b t"]:
        return self.k_norm * _length(per_channel(gate, values) * values)


@dataclass(frozen=True, eq=False)
class Motion:
    """The state before a step and after it, before the first step, and the directions of this step and the last.

    `unit` is the direction without a length that the site may have learned.
    """

    before: Float[Tensor, "b t d dv"]
    after: Float[Tensor, "b t d dv"]
    first: Float[Tensor, "b t d dv"]
    k: Float[Tensor, "b t d"]
    unit: Float[Tensor, "b t d"]
    previous_unit: Float[Tensor, "b t d"] | None

    @cached_property
    def update_norm(self) -> Float[Tensor, "b t"]:
        """How far the state moved."""
        return _size(_exact(self.after) - _exact(self.before))

    @cached_property
    def state_norm(self) -> Float[Tensor, "b t"]:
        """How large the state was."""
        return _size(_exact(self.before))

    @property
    def energy_delta(self) -> Float[Tensor, "b t"]:
        """The change of the squared norm: as a product, because a difference of squares would lose digits."""
        before, after = _exact(self.before), _exact(self.after)
        return ((after - before) * (after + before)).sum((-2, -1))

    @property
    def drift(self) -> Float[Tensor, "b t"]:
        """How far the state is from the first one, in units of that."""
        first = _exact(self.first)
        return _size(_exact(self.before) - first) / _size(first)

    @property
    def state_cos(self) -> Float[Tensor, "b t"]:
        """The cosine of the state with the first one."""
        before, first = _exact(self.before), _exact(self.first)
        return (before * first).sum((-2, -1)) / (self.state_norm * _size(first))

    @property
    def k_cos_prev(self) -> Float[Tensor, "b t"]:
        """The cosine with the direction of the step before; NaN where there is none."""
        if self.previous_unit is None:
            return torch.full_like(self.unit[..., 0], torch.nan)
        return (self.unit * self.previous_unit).sum(-1)


@dataclass(frozen=True, eq=False)
class Step:
    """What is known of one site: no `gates` where it only adds, no `motion` where states were not kept."""

    raw_norm: Float[Tensor, "b t"]
    gates: Gates | None
    motion: Motion | None

    @property
    def gated(self) -> Gates:
        """The gates of a site that has them."""
        assert self.gates is not None, "an additive site has no gate"
        return self.gates

    @property
    def moved(self) -> Motion:
        """The states of a site whose states were kept."""
        assert self.motion is not None, "the states were not kept"
        return self.motion

    @cached_property
    def e_post(self) -> Float[Tensor, "b t dv"]:
        """The discrepancy after the rewrite, read off the new state."""
        return delta.readout(_exact(self.moved.after), self.moved.k) - self.gated.rewrite.target


FORMULAS: dict[str, Callable[[Step], Tensor]] = {
    "beta": lambda step: step.gated.rewrite.beta,
    "beta_logit": lambda step: step.gated.rewrite.gate_logit,
    "proj": lambda step: step.gated.rewrite.readout,
    "v": lambda step: step.gated.rewrite.target,
    "k_norm": lambda step: step.gated.k_norm,
    "k_raw_norm": lambda step: step.raw_norm,
    "eigenvalue": lambda step: step.gated.eigenvalue,
    "e_pre": lambda step: step.gated.e_pre,
    "e_post": lambda step: step.e_post,
    "e_pre_norm": lambda step: _length(step.gated.e_pre),
    "e_post_norm": lambda step: _length(step.e_post),
    "erase_norm": lambda step: step.gated.erase_norm,
    "write_norm": lambda step: step.gated.write_norm,
    "balance": lambda step: (
        (step.gated.write_norm - step.gated.erase_norm) / (step.gated.write_norm + step.gated.erase_norm)
    ),
    "agreement": lambda step: F.cosine_similarity(step.gated.rewrite.target, step.gated.rewrite.readout, dim=-1),
    "update_norm": lambda step: step.moved.update_norm,
    "energy_delta": lambda step: step.moved.energy_delta,
    "state_norm": lambda step: step.moved.state_norm,
    "update_ratio": lambda step: step.moved.update_norm / step.moved.state_norm,
    "drift": lambda step: step.moved.drift,
    "state_cos": lambda step: step.moved.state_cos,
    "k_cos_prev": lambda step: step.moved.k_cos_prev,
}
"""Quantities that one site gives, by name."""


def without_scale(k: Float[Tensor, "b t d"], normalise: Normalise) -> Float[Tensor, "b t d"]:
    """Return a direction without the length that its site may have learned."""
    return k / normalise.scale.to(k.dtype) if isinstance(normalise, ScaledNormalise) else k


def _exact(state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "b t d dv"]:
    """Return a state in the dtype of sums."""
    return state.to(delta.sum_dtype(state.dtype))


def _length(values: Float[Tensor, "b t dv"]) -> Float[Tensor, "b t"]:
    length: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return length


def _size(states: Float[Tensor, "b t d dv"]) -> Float[Tensor, "b t"]:
    size: Tensor = torch.linalg.vector_norm(states, dim=(-2, -1))
    return size
