"""One layer: twice compress, process, rewrite."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.compress import Compressor, make_compressor
from ddl_model.config import ResidualConfig, StateConfig
from ddl_model.observe import Observer, Sublayer, site_name
from ddl_model.residual import make_residual
from ddl_model.token_stream import TokenStream


class Process(Protocol):
    """What a sublayer does with its context: attention, feed-forward."""

    def __call__(self, context: Float[Tensor, "b t d"], stream: TokenStream | None) -> Float[Tensor, "b t d"]:
        """Return the sublayer's output; `stream` knows the tokens before these, None where there is no before."""
        ...


class SublayerStep(nn.Module):
    """Compress the state, process the normalised context, rewrite the state by the result.

    A step without a compressor of its own is given one with each call: its block shares one.
    """

    def __init__(
        self,
        process: nn.Module,
        width: int,
        residual: ResidualConfig,
        state: StateConfig,
        layer: int,
        sublayer: Sublayer,
        norm_eps: float = 1e-5,
    ) -> None:
        """Wrap `process`, a module from context to output, in a compressor, a norm and a residual rule."""
        super().__init__()
        self.site = site_name(layer, sublayer)
        self.compress = None if state.shared_compressor else make_compressor(width, state)
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.process = process
        self.residual = make_residual(width, residual, state.value_channels, self.site)

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        observer: Observer | None = None,
        stream: TokenStream | None = None,
        shared: Compressor | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state."""
        compress = self.compress or shared
        assert compress is not None, "a step without a compressor of its own needs the block's"
        compressed = compress(state, stream, f"{self.site}.compress")
        context = self.norm(compressed)
        next_state: Tensor = self.residual(state, self.process(context, stream), context, compressed, observer)
        return next_state


class Block(nn.Module):
    """Attention, then feed-forward; each rewrites the state once."""

    def __init__(self, attn: SublayerStep, mlp: SublayerStep, compress: Compressor | None = None) -> None:
        """Join two sublayers, and the compressor that they share if they have none of their own."""
        super().__init__()
        self.attn = attn
        self.mlp = mlp
        self.compress = compress

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        observer: Observer | None = None,
        stream: TokenStream | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """Return the state after both rewrites."""
        state = self.attn(state, observer, stream, self.compress)
        state = self.mlp(state, observer, stream, self.compress)
        return state
