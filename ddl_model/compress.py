"""From the state to what a sublayer works on: compressors over value channels (CC) or over channels and tokens (TC)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.compress_op import Compressed, ReadingArguments, compress, compress_norm, token_compress
from ddl_model.config import StateConfig
from ddl_model.token_stream import TokenStream


class Compressor(nn.Module, ABC):
    """The signature of every compressor: weights per row and value channel, and per token where it looks back."""

    @abstractmethod
    def weights(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "d dv *taps"]:
        """Return the weights that the compressor comes to, with taps where it works over tokens."""

    def forward(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None = None, name: str = ""
    ) -> Float[Tensor, "b t d"]:
        """Return the compressed state.

        A compressor that looks back over tokens asks `stream` for the earlier ones, under `name`.
        """
        return compress(state, self.weights(state))


@dataclass(frozen=True)
class Reading:
    """How the next sublayer, or the head, reads the state of one pass: its compressor, its norm, the tokens before."""

    compressor: Compressor
    norm: nn.RMSNorm
    stream: TokenStream | None
    name: str

    def arguments(self, state: Float[Tensor, "b t d dv"]) -> ReadingArguments:
        """Return what the operators need to read a state of this shape.

        Raises:
            ValueError: the compressor looks back over tokens and there is no stream to ask.
        """
        history = None
        if isinstance(self.compressor, TokenCompress):
            history = self.compressor.history(state, self.stream, self.name)
        eps = self.norm.eps
        assert eps is not None
        return ReadingArguments(self.compressor.weights(state), self.norm.weight, eps, history)

    def remember(self, arguments: ReadingArguments, state: Float[Tensor, "b t d dv"]) -> None:
        """Leave the states that later tokens look back to in the stream."""
        if arguments.history is not None and self.stream is not None:
            self.stream.remember(self.name, arguments.history, state)

    def __call__(self, state: Float[Tensor, "b t d dv"]) -> Compressed:
        """Read the state."""
        if isinstance(self.compressor, ChannelCompress) and self.compressor.weight is None:
            only = state.squeeze(-1)
            return Compressed(only, self.norm(only))
        arguments = self.arguments(state)
        self.remember(arguments, state)
        return compress_norm(state, arguments)


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

    def weights(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "d dv"]:
        """See the base class."""
        return state.new_ones(state.shape[-2:]) if self.weight is None else self.weight


class ChannelConvolutionCompress(Compressor):
    """Convolve the value channels with a learned kernel per row, same-padded, then weigh them by a read vector.

    Both steps are linear, so they are one set of weights per row and channel: see `weights`. With one value channel the
    result is the state times a learned factor. Source: the authors' code (SPEC section 1, CC compressor).
    """

    def __init__(self, width: int, value_channels: int, taps: int) -> None:
        """Make the kernels, (d, taps), which the model draws, and the read vector, which starts at the mean."""
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, taps))
        self.read = nn.Parameter(torch.full((value_channels,), 1.0 / value_channels))
        nn.init.normal_(self.kernel, std=0.5 * width**-0.5)

    def weights(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "d dv"]:
        """Return the weights that both steps come to: `W[i, v] = sum_j read[j] kernel[i, left + v - j]`."""
        channels, taps = len(self.read), self.kernel.shape[1]
        left = (taps - 1) // 2
        places = torch.arange(taps, device=self.read.device) - left
        # Channel v reaches output j = v - place; outputs outside the state do not exist.
        outputs = torch.arange(channels, device=self.read.device) - places.unsqueeze(-1)
        inside = (outputs >= 0) & (outputs < channels)
        reads = torch.where(inside, self.read[outputs.clamp(0, channels - 1)], 0.0)
        return self.kernel @ reads


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

    def weights(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "d dv taps"]:
        """Return the weights that both steps come to: `W[i, j, p] = read[j] kernel[i dv + j, p]`."""
        kernel: Tensor = self.kernel.unflatten(0, (-1, len(self.read)))
        return kernel * self.read.unsqueeze(-1)

    def forward(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None = None, name: str = ""
    ) -> Float[Tensor, "b t d"]:
        """See the base class."""
        history = self.history(state, stream, name)
        if stream is not None:
            stream.remember(name, history, state)
        return token_compress(state, history, self.weights(state))

    def history(
        self, state: Float[Tensor, "b t d dv"], stream: TokenStream | None, name: str
    ) -> Float[Tensor, "b s d dv"]:
        """Return the states of the tokens before this pass, zeros where there were none, the oldest first.

        Raises:
            ValueError: there is no stream to ask.
        """
        if stream is None:
            raise ValueError("a token compressor needs a stream: it looks back over tokens")
        return stream.history(name, state, self.kernel.shape[1] - 1)


def make_compressor(width: int, config: StateConfig) -> Compressor:
    """Return the compressor that the config names."""
    if config.compress == "token":
        return TokenCompress(width, config.value_channels, config.compress_kernel)
    if config.channel_weights == "convolution":
        return ChannelConvolutionCompress(width, config.value_channels, config.compress_kernel)
    return ChannelCompress(width, config.value_channels)
