"""Generators of a rewrite: where its direction, gate and target come from. One signature for each of the three.

Directions are made raw and then normalised. How, decides the spectrum of the shortcut A = I - beta k k^T, which is
d - 1 ones and `1 - beta |k|^2`; beta lies in [0, 2]:

- guarded: |k| < 1, the last eigenvalue lies in (-1, 1], and no rewrite towards 0 lets the state grow;
- exact: |k| = 1 (0 for a raw 0), it is `1 - beta` in [-1, 1], and beta = 1 overwrites to the last bit of rounding;
- learned scale: |k| = s |k_guarded|, it lies in (1 - 2 s^2, 1]. Overwriting happens at beta = 1 / |k|^2, which is out
  of the gate's reach where s^2 < 1 / 2. Where beta |k|^2 > 2 the readout is thrown further away than it was: the
  shortcut expands along k, by up to 2 s^2 - 1. One site can undo the growth of another, a deep network need not.

The paper's first edition (arXiv 2601.00417v1, appendix A) makes k by an MLP of a pooled state (Eq. A.1), or by "an
attention mechanism" over the value dimension that it leaves open, and the gate by `2 sigmoid(w^T tanh(W Pool(X)))`
(Eq. A.2); its value branch has the shape of the backbone's. Ours have a bias on the gate, which puts the gate at the
start where the config says, and root-mean-square normalise what was pooled, so that they see no scale of the state.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model import delta
from ddl_model.config import ResidualConfig

_POOL_EPS = 1e-5
"""Keeps a pooled state near 0 from being blown up to length 1."""


class Normalise(nn.Module):
    """From a raw direction to k, guarded: `k = h / sqrt(|h|^2 + eps^2)`. The signature of every normalisation."""

    def __init__(self, eps: float) -> None:
        """Keep the guard."""
        super().__init__()
        self.eps = eps

    def forward(self, raw: Float[Tensor, "*n d"]) -> delta.Direction:
        """Return k, and the length of `raw`."""
        return delta.unit_direction(raw, self.eps)

    def length(self, raw_norm: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return |k| from the length of the raw direction."""
        return guarded_length(raw_norm, self.eps)


class ExactNormalise(Normalise):
    """`k = h / |h|`, and 0 where h is 0."""

    def forward(self, raw: Float[Tensor, "*n d"]) -> delta.Direction:
        """See the base class."""
        return delta.exact_direction(raw)

    def length(self, raw_norm: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """See the base class."""
        return (raw_norm > 0).to(raw_norm.dtype)


class ScaledNormalise(Normalise):
    """`k = s h / sqrt(|h|^2 + eps^2)` with one learned s > 0 for the site, kept as its logarithm."""

    def __init__(self, eps: float, start: float) -> None:
        """Start s at `start`."""
        super().__init__(eps)
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The length s of k where the guard does not matter."""
        return self.log_scale.exp()

    def forward(self, raw: Float[Tensor, "*n d"]) -> delta.Direction:
        """See the base class."""
        k, raw_norm = super().forward(raw)
        return delta.Direction(self.scale.to(k.dtype) * k, raw_norm)

    def length(self, raw_norm: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """See the base class."""
        return self.scale.to(raw_norm.dtype) * super().length(raw_norm)


def guarded_length(raw_norm: Float[Tensor, "*n"], eps: float) -> Float[Tensor, "*n"]:
    """Return the length of a guarded k from that of the raw direction: `r / sqrt(r^2 + eps^2)`."""
    return raw_norm / (raw_norm.square() + eps**2).sqrt()


def make_normalise(config: ResidualConfig) -> Normalise:
    """Return the normalisation that the config names."""
    match config.direction_norm:
        case "guarded":
            return Normalise(config.direction_eps)
        case "exact":
            return ExactNormalise(config.direction_eps)
        case "learned_scale":
            return ScaledNormalise(config.direction_eps, config.direction_scale_init)


class OutputDirection(nn.Module):
    """The sublayer's output is the raw direction. The signature of every generator of directions."""

    def forward(
        self, state: Float[Tensor, "b t d dv"], output: Float[Tensor, "b t d"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return the raw direction of each token from its state and the sublayer's output, where there is one."""
        if output is None:
            raise ValueError("direction 'output' needs a sublayer's output, and this network has none")
        return output


class PooledDirection(OutputDirection):
    """A multilayer perceptron of the mean over value channels. Source: DDL v1, Eq. A.1, column-wise averaging."""

    def __init__(self, width: int, hidden_width: int) -> None:
        """Make the perceptron."""
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))

    def pool(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "b t d"]:
        """Return one vector for each token's state."""
        return state.mean(-1)

    def forward(
        self, state: Float[Tensor, "b t d dv"], output: Float[Tensor, "b t d"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """See the base class; the output is left to the target."""
        raw: Tensor = self.mlp(normalise_pooled(self.pool(state)))
        return raw


class AttentionDirection(PooledDirection):
    """The same perceptron after attention pooling: a learned query weighs the value channels by what they hold.

    The first edition asks for attention over the value dimension without saying which; this is the smallest.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        """Make the perceptron and the query, (d,)."""
        super().__init__(width, hidden_width)
        self.query = nn.Parameter(torch.randn(width) * width**-0.5)

    def pool(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "b t d"]:
        """See the base class."""
        columns = state.mT
        weights = (normalise_pooled(columns) @ self.query).softmax(-1)
        return (weights.unsqueeze(-2) @ columns).squeeze(-2)


def normalise_pooled(pooled: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Bring vectors to a root mean square of 1, without weights: a linear layer follows."""
    return F.rms_norm(pooled, (pooled.shape[-1],), eps=_POOL_EPS)


def make_direction(width: int, config: ResidualConfig) -> OutputDirection:
    """Return the generator of directions that the config names."""
    match config.direction:
        case "output":
            return OutputDirection()
        case "pooled_mlp":
            return PooledDirection(width, config.direction_hidden_width)
        case "attention_pooled":
            return AttentionDirection(width, config.direction_hidden_width)


def make_gate(width: int, config: ResidualConfig) -> tuple[nn.Linear | None, nn.Linear]:
    """Return a gate's hidden layer, None where it has none, and its last, with one output per group."""
    if config.gate == "two_layer":
        return nn.Linear(width, config.gate_hidden_width, bias=False), nn.Linear(config.gate_hidden_width, 1)
    return None, nn.Linear(width, config.gate_groups)


def gate_input(context: Float[Tensor, "b t d"], hidden: nn.Linear | None) -> Float[Tensor, "b t g"]:
    """Return what the gate's last layer reads: the context, or its hidden layer."""
    return context if hidden is None else torch.tanh(hidden(context))


def bound_target(linear: Float[Tensor, "b t dv"], scale: float) -> Float[Tensor, "b t dv"]:
    """Return the target from what its layer or branch gives: as it is, or `scale sigmoid(.)` where scale is above 0."""
    return scale * torch.sigmoid(linear) if scale > 0 else linear
