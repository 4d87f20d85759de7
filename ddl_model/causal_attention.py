"""Causal multi-head attention with rotary positions, a cache, and the paper's code's options."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.config import Activation, AttentionConfig
from ddl_model.norm import RMSNorm
from ddl_model.rope import RotaryEmbedding
from ddl_model.token_stream import TokenStream

_QK_NORM_EPS = 1e-5


class ShiftedLinear(nn.Module):
    """A projection to heads, each output mixed with that of the token before: `a o[t-1] + (1 - a) o[t]`.

    The share a is a sigmoid of a projection, one per head and token; before a row's first token there is zero.
    Source: the authors' code, ShiftLinear (SPEC section 1).
    """

    def __init__(self, width: int, heads: int, head_width: int, name: str) -> None:
        """Make the projection and that of the shares; `name` keeps the last output in the cache."""
        super().__init__()
        self.name = name
        self.heads = heads
        self.linear = nn.Linear(width, heads * head_width, bias=False)
        self.share = nn.Linear(width, heads, bias=False)

    def forward(self, context: Float[Tensor, "b t d"], stream: TokenStream) -> Float[Tensor, "b t e"]:
        """Return the mixed outputs of all heads side by side."""
        now = self.linear(context)
        before = stream.window(self.name, now, 1)[:, :-1]
        share = torch.sigmoid(self.share(context)).repeat_interleave(now.shape[-1] // self.heads, dim=-1)
        mixed: Tensor = share * before + (1 - share) * now
        return mixed


class CausalSelfAttention(nn.Module):
    """Attention of each token to itself and those before it.

    Order of the steps: projection (shifted or not), activation, rotation, RMSNorm of queries and keys, attention, norm
    and gate of the heads, output projection. Source: the authors' code (SPEC section 1).
    """

    def __init__(self, width: int, config: AttentionConfig, name: str) -> None:
        """Make the projections; `name` tells layers apart in the cache."""
        super().__init__()
        self.config = config
        self.name = name
        inner = config.heads * config.head_width
        self.rotary = RotaryEmbedding(config.rotated, config.rotary_base)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = self._projection(width, config.key_shift, "key")
        self.value = self._projection(width, config.value_shift, "value")
        self.query_norm = RMSNorm(config.head_width, eps=_QK_NORM_EPS) if config.query_key_norm else None
        self.key_norm = RMSNorm(config.head_width, eps=_QK_NORM_EPS) if config.query_key_norm else None
        self.head_norm = None
        if config.head_norm != "none":
            eps = config.head_norm_eps if config.head_norm == "output" else _QK_NORM_EPS
            self.head_norm = RMSNorm(config.head_width, eps=eps)
        self.output_gate = nn.Linear(width, inner, bias=False) if config.output_gate else None
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, context: Float[Tensor, "b t d"], stream: TokenStream | None) -> Float[Tensor, "b t d"]:
        """Return the attended values after the output projection."""
        assert stream is not None, "causal attention needs a stream"
        config = self.config
        query = self._heads(_activate(self.query(context), config.query_activation))
        key = self._heads(_activate(self._project(self.key, context, stream), config.key_activation))
        value = self._heads(_activate(self._project(self.value, context, stream), config.value_activation))
        tables = stream.rotary_tables(self.rotary, context.device)
        query, key = self.rotary.rotate(query, tables), self.rotary.rotate(key, tables)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        heads = stream.attend(self.name, query, key, value)
        if self.head_norm is not None:
            heads = self.head_norm(heads)
        joined = heads.flatten(2)
        if self.output_gate is not None:
            joined = joined * F.silu(self.output_gate(context))
        out: Tensor = self.out(joined)
        return out

    def _projection(self, width: int, shift: bool, what: str) -> nn.Module:
        if shift:
            return ShiftedLinear(width, self.config.heads, self.config.head_width, f"{self.name}.{what}")
        return nn.Linear(width, self.config.heads * self.config.head_width, bias=False)

    @staticmethod
    def _project(projection: nn.Module, context: Tensor, stream: TokenStream) -> Tensor:
        out: Tensor = projection(context, stream) if isinstance(projection, ShiftedLinear) else projection(context)
        return out

    def _heads(self, joined: Float[Tensor, "b t e"]) -> Float[Tensor, "b t h w"]:
        heads: Tensor = joined.unflatten(-1, (self.config.heads, self.config.head_width))
        return heads


def _activate(values: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "silu":
            return F.silu(values)
        case "relu":
            return F.relu(values)
        case "elu+1":
            return F.elu(values) + 1
        case _:
            return values
