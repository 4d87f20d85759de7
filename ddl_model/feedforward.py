"""The feed-forward sublayer."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.token_stream import TokenStream


class SwiGLU(nn.Module):
    """`W_out (silu(W_gate c) * W_in c)`, without biases. This gate is the activation's, not the rewrite's."""

    def __init__(self, width: int, hidden_width: int) -> None:
        """Make the projections; the first two are one matrix."""
        super().__init__()
        self.expand = nn.Linear(width, 2 * hidden_width, bias=False)
        self.out = nn.Linear(hidden_width, width, bias=False)

    def forward(self, context: Float[Tensor, "b t d"], stream: TokenStream | None = None) -> Float[Tensor, "b t d"]:
        """Return the sublayer's output."""
        activation, value = self.expand(context).chunk(2, dim=-1)
        out: Tensor = self.out(F.silu(activation) * value)
        return out
