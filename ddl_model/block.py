"""One layer: twice compress, process, rewrite."""

from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.attention import SelfAttention
from ddl_model.compress import ChannelCompress
from ddl_model.config import ResidualConfig
from ddl_model.feedforward import SwiGLU
from ddl_model.observe import Observer, Sublayer, site_name
from ddl_model.residual import make_residual


class SublayerStep(nn.Module):
    """Compress the state, process the normalised context, rewrite the state by the result."""

    def __init__(self, process: nn.Module, width: int, config: ResidualConfig, layer: int, sublayer: Sublayer) -> None:
        """Wrap `process`, a module from context to output, in a compressor, a norm and a residual rule."""
        super().__init__()
        self.compress = ChannelCompress(width, config.value_channels)
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.process = process
        self.residual = make_residual(width, config, site_name(layer, sublayer))

    def forward(self, state: Float[Tensor, "b t d dv"], observer: Observer | None = None) -> Float[Tensor, "b t d dv"]:
        """Return the next state."""
        compressed = self.compress(state)
        context = self.norm(compressed)
        next_state: Tensor = self.residual(state, self.process(context), context, compressed, observer)
        return next_state


class Block(nn.Module):
    """Self-attention, then SwiGLU; each rewrites the state once."""

    def __init__(self, width: int, heads: int, feedforward_width: int, config: ResidualConfig, layer: int) -> None:
        """Make the two sublayers of layer number `layer`."""
        super().__init__()
        self.attn = SublayerStep(SelfAttention(width, heads), width, config, layer, "attn")
        self.mlp = SublayerStep(SwiGLU(width, feedforward_width), width, config, layer, "mlp")

    def forward(self, state: Float[Tensor, "b t d dv"], observer: Observer | None = None) -> Float[Tensor, "b t d dv"]:
        """Return the state after both rewrites."""
        state = self.attn(state, observer)
        state = self.mlp(state, observer)
        return state
