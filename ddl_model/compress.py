"""From the state to a sublayer's input: compressors over value channels (CC) and over tokens (TC)."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.config import StateConfig
from ddl_model.token_stream import TokenStream


class Compressor(nn.Module, ABC):
    """The signature of every compressor."""

    @abstractmethod
    def forward(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None = None, name: str = ""
    ) -> Float[Tensor, "b t d"]:
        """Return the compressed state.

        A compressor that looks back over tokens asks `stream` for the earlier ones, under `name`.
        """


class ChannelCompress(Compressor):
    """Weigh the value channels of each row of the state: `x[i] = sum_j W[i, j] X[i, j]`, started at their mean.

    With one value channel there is nothing to weigh: the state's only channel is returned and there is no parameter.
    Source: DDL section 3, channel compressor (one depthwise kernel of size d_v).
    """

    def __init__(self, width: int, value_channels: int) -> None:
        """Make the weights, (d, d_v)."""
        super().__init__()
        start = torch.full((width, value_channels), 1.0 / value_channels) if value_channels > 1 else None
        self.weight = None if start is None else nn.Parameter(start)

    def forward(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None = None, name: str = ""
    ) -> Float[Tensor, "b t d"]:
        """See the base class."""
        if self.weight is None:
            return state.squeeze(-1)
        return (state * self.weight).sum(-1)


class ChannelConvolutionCompress(Compressor):
    """Convolve the value channels with a learned kernel per row, same-padded, then weigh them by a read vector.

    Both steps are linear, so they are one set of weights per row and channel: see `weight`. With one value channel the
    result is the state times a learned factor. Source: the authors' code (SPEC section 1, CC compressor).
    """

    def __init__(self, width: int, value_channels: int, taps: int) -> None:
        """Make the kernels, (d, taps), which the model draws, and the read vector, which starts at the mean."""
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, taps))
        self.read = nn.Parameter(torch.full((value_channels,), 1.0 / value_channels))
        nn.init.normal_(self.kernel, std=0.5 * width**-0.5)

    @property
    def weight(self) -> Float[Tensor, "d dv"]:
        """The weights that both steps come to: `W[i, v] = sum_j read[j] kernel[i, left + v - j]`."""
        channels, taps = len(self.read), self.kernel.shape[1]
        left = (taps - 1) // 2
        places = torch.arange(taps, device=self.read.device) - left
        # Channel v reaches output j = v - place; outputs outside the state do not exist.
        outputs = torch.arange(channels, device=self.read.device) - places.unsqueeze(-1)
        inside = (outputs >= 0) & (outputs < channels)
        reads = torch.where(inside, self.read[outputs.clamp(0, channels - 1)], 0.0)
        return self.kernel @ reads

    def forward(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None = None, name: str = ""
    ) -> Float[Tensor, "b t d"]:
        """See the base class."""
        return (state * self.weight).sum(-1)


class TokenCompress(Compressor):
    """Convolve every entry of the state over the last `taps` tokens, then weigh its channels by a read vector.

    `x[t, i] = sum_j read[j] sum_s kernel[i dv + j, taps - 1 - s] X[t - s, i, j]`: the last tap is the current token.
    Source: DDL section 3, token compressor; order of taps and channels as in the authors' code (SPEC section 1).
    """

    def __init__(self, width: int, value_channels: int, taps: int) -> None:
        """Make the kernels, (d dv, taps), which the model draws, and the read vector, which starts at the mean."""
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width * value_channels, taps))
        self.read = nn.Parameter(torch.full((value_channels,), 1.0 / value_channels))
        nn.init.normal_(self.kernel, std=0.5 * width**-0.5)

    def forward(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None = None, name: str = ""
    ) -> Float[Tensor, "b t d"]:
        """See the base class."""
        if stream is None:
            raise ValueError("a token compressor needs a stream: it looks back over tokens")
        rows, tokens, width, channels = state.shape
        window = stream.window(name, state.reshape(rows, tokens, width * channels), self.kernel.shape[1] - 1)
        mixed = causal_convolution(window, self.kernel).reshape(state.shape)
        return (mixed * self.read).sum(-1)


def causal_convolution(window: Float[Tensor, "b s c"], kernel: Float[Tensor, "c taps"]) -> Float[Tensor, "b t c"]:
    """Convolve each channel over tokens; `window` starts taps - 1 tokens before the first output."""
    mixed = F.conv1d(window.transpose(1, 2), kernel.unsqueeze(1), groups=kernel.shape[0])
    return mixed.transpose(1, 2)


def make_compressor(width: int, config: StateConfig) -> Compressor:
    """Return the compressor that the config names."""
    if config.compress == "token":
        return TokenCompress(width, config.value_channels, config.compress_kernel)
    if config.channel_weights == "convolution":
        return ChannelConvolutionCompress(width, config.value_channels, config.compress_kernel)
    return ChannelCompress(width, config.value_channels)
