"""Multi-head self-attention among patches, which have no order in time."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.norm import RMSNorm
from ddl_model.token_stream import TokenStream


class SelfAttention(nn.Module):
    """Attention of every token to every token, with a learned RMSNorm on the queries and keys of each head."""

    def __init__(self, width: int, heads: int) -> None:
        """Make the projections; `heads` divides `width`."""
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = RMSNorm(self.head_width, eps=1e-5)
        self.key_norm = RMSNorm(self.head_width, eps=1e-5)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, context: Float[Tensor, "b t d"], stream: TokenStream | None = None) -> Float[Tensor, "b t d"]:
        """Return the attended values after the output projection."""
        batch, tokens, width = context.shape
        heads = self.query_key_value(context).view(batch, tokens, 3, self.heads, self.head_width)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(self.query_norm(query), self.key_norm(key), value)
        out: Tensor = self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return out
