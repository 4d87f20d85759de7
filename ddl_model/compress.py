"""From the state to a sublayer's input."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ChannelCompress(nn.Module):
    """Weigh the value channels of each row of the state: `x[i] = sum_j W[i, j] X[i, j]`, started at their mean.

    With one value channel there is nothing to weigh: the state's only channel is returned and there is no parameter.
    Source: DDL section 3, channel compressor (one depthwise kernel of size d_v).
    """

    def __init__(self, width: int, value_channels: int) -> None:
        """Make the weights, (d, d_v)."""
        super().__init__()
        start = torch.full((width, value_channels), 1.0 / value_channels) if value_channels > 1 else None
        self.weight = None if start is None else nn.Parameter(start)

    def forward(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "b t d"]:
        """Return the compressed state."""
        if self.weight is None:
            return state.squeeze(-1)
        return (state * self.weight).sum(-1)
