"""From embeddings to the first state X_0."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.compress_op import causal_convolution
from ddl_model.config import StateConfig
from ddl_model.token_stream import TokenStream


def repeat_channels(embedding: Float[Tensor, "b t d"], value_channels: int) -> Float[Tensor, "b t d dv"]:
    """Give every value channel a copy of the embedding. Source: DDL section 3, expansion without convolution."""
    return embedding.unsqueeze(-1).expand(*embedding.shape, value_channels)


class RepeatExpand(nn.Module):
    """`repeat_channels` as a module."""

    def __init__(self, value_channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.value_channels = value_channels

    def forward(self, embedding: Float[Tensor, "b t d"], stream: TokenStream) -> Float[Tensor, "b t d dv"]:
        """Return the first state."""
        return repeat_channels(embedding, self.value_channels)


class ConvolutionExpand(nn.Module):
    """Embedding convolution (EC): channel j of row i is a causal convolution of embedding entry i over tokens.

    It starts as `repeat_channels`: last tap 1, others 0. Source: DDL section 3; the kernel's row i dv + j makes channel
    j of row i, as in the authors' code (SPEC section 1).
    """

    def __init__(self, width: int, value_channels: int, taps: int) -> None:
        """Make the kernel, (d dv, taps)."""
        super().__init__()
        self.value_channels = value_channels
        kernel = torch.zeros(width * value_channels, taps)
        kernel[:, -1] = 1.0
        self.kernel = nn.Parameter(kernel)

    def forward(self, embedding: Float[Tensor, "b t d"], stream: TokenStream) -> Float[Tensor, "b t d dv"]:
        """Return the first state."""
        window = stream.window("expand", embedding, self.kernel.shape[1] - 1)
        state: Tensor = causal_convolution(window, self.kernel).unflatten(-1, (-1, self.value_channels))
        return state


def make_expansion(width: int, config: StateConfig) -> nn.Module:
    """Return the expansion that the config names."""
    if config.expand == "convolution":
        return ConvolutionExpand(width, config.value_channels, config.expand_kernel)
    return RepeatExpand(config.value_channels)
