"""Reading a state as torch operators: compress and norm, alone or in one with the rewrite before them.

A sublayer reads the state through its compressor and its RMSNorm, right after the sublayer before it has rewritten
it. Together they are one pass over the state, so they are one operator: `ddl::delta_rewrite_compress_norm`, and with a
compressor over tokens `ddl::delta_rewrite_token_compress_norm`. All are composite, as `ddl::delta_rewrite` is.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.compiled_formulas import mark, sources
from ddl_model.delta_op import (
    LIBRARY,
    REWRITE_ARGUMENTS,
    REWRITE_OPTIONS,
    REWRITE_TRACE,
    DeltaRewrite,
    RewriteArguments,
    RewriteOptions,
    full_precision,
    plain_delta_rewrite,
)

LIBRARY.define("compress_norm(Tensor state, Tensor weight, Tensor norm_weight, float norm_eps) -> (Tensor, Tensor)")
LIBRARY.define(
    "token_compress_norm(Tensor state, Tensor history, Tensor weight, Tensor norm_weight, float norm_eps) "
    "-> (Tensor compressed, Tensor context)"
)
_BOTH = f"-> (Tensor new_state, Tensor compressed, Tensor context, {REWRITE_TRACE})"
LIBRARY.define(
    f"delta_rewrite_compress_norm({REWRITE_ARGUMENTS}, Tensor compress_weight, Tensor norm_weight, "
    f"{REWRITE_OPTIONS}, float norm_eps) {_BOTH}"
)
LIBRARY.define(
    f"delta_rewrite_token_compress_norm({REWRITE_ARGUMENTS}, Tensor history, Tensor compress_weight, "
    f"Tensor norm_weight, {REWRITE_OPTIONS}, float norm_eps) {_BOTH}"
)


class Compressed(NamedTuple):
    """What a sublayer sees of the state: compressed, and the same after its norm."""

    compressed: Float[Tensor, "*n d"]
    context: Float[Tensor, "*n d"]


class ReadingArguments(NamedTuple):
    """What a reading of the state is made of: weights per row and value channel, or per row, channel and token.

    With taps, `weight` is (d, dv, taps), its last tap is the current token, and `history` (b, taps - 1, d, dv) holds
    the states before each row's first token, the oldest first. Without, `history` is None.
    """

    weight: Float[Tensor, "d dv *taps"]
    norm_weight: Float[Tensor, " d"]
    norm_eps: float
    history: Float[Tensor, "b s d dv"] | None = None


def compress(state: Float[Tensor, "*n d dv"], weight: Float[Tensor, "d dv"]) -> Float[Tensor, "*n d"]:
    """Weigh the value channels of each row: `x[i] = sum_j W[i, j] X[i, j]`. Source: DDL section 3, CC."""
    return (state * weight).sum(-1)


def token_compress(
    state: Float[Tensor, "b t d dv"], history: Float[Tensor, "b s d dv"], weight: Float[Tensor, "d dv taps"]
) -> Float[Tensor, "b t d"]:
    """Weigh channels and the last taps tokens: `x_t[i] = sum_jp W[i, j, p] X_{t - (taps - 1 - p)}[i, j]`.

    Source: DDL section 3, TC.
    """
    width, channels, taps = weight.shape
    window = torch.cat([history, state], dim=1).flatten(2)
    mixed = causal_convolution(window, weight.reshape(width * channels, taps))
    compressed: Tensor = mixed.unflatten(-1, (width, channels)).sum(-1)
    return compressed


def causal_convolution(window: Float[Tensor, "b s c"], kernel: Float[Tensor, "e taps"]) -> Float[Tensor, "b t e"]:
    """Convolve each channel over tokens with each of its e / c kernels, which are neighbours in `kernel`.

    `window` starts taps - 1 tokens before the first output.
    """
    mixed = F.conv1d(window.transpose(1, 2), kernel.unsqueeze(1), groups=window.shape[2])
    return mixed.transpose(1, 2)


def plain_compress_norm(state: Tensor, weight: Tensor, norm_weight: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    """Compute `ddl::compress_norm` by the formulas."""
    dtype = delta.sum_dtype(state.dtype)
    with full_precision(state.device):
        return _normed(compress(state.to(dtype), weight.to(dtype)), norm_weight, norm_eps, state.dtype)


def plain_token_compress_norm(
    state: Tensor, history: Tensor, weight: Tensor, norm_weight: Tensor, norm_eps: float
) -> tuple[Tensor, Tensor]:
    """Compute `ddl::token_compress_norm` by the formulas."""
    dtype = delta.sum_dtype(state.dtype)
    with full_precision(state.device):
        compressed = token_compress(state.to(dtype), history.to(dtype), weight.to(dtype))
        return _normed(compressed, norm_weight, norm_eps, state.dtype)


Fused = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def plain_delta_rewrite_compress_norm(
    state: Tensor,
    direction: Tensor,
    context: Tensor,
    target_input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    target_weight: Tensor,
    target_bias: Tensor,
    compress_weight: Tensor,
    norm_weight: Tensor,
    direction_eps: float,
    target_scale: float,
    erases: bool,
    override: Tensor | None,
    norm_eps: float,
) -> Fused:
    """Compute `ddl::delta_rewrite_compress_norm` by its two parts."""
    weights = (gate_weight, gate_bias, target_weight, target_bias)
    options = (direction_eps, target_scale, erases, override)
    new_state, *trace = plain_delta_rewrite(state, direction, context, target_input, *weights, *options)
    read = plain_compress_norm(new_state, compress_weight, norm_weight, norm_eps)
    return cast(Fused, (new_state, *read, *trace))


def plain_delta_rewrite_token_compress_norm(
    state: Tensor,
    direction: Tensor,
    context: Tensor,
    target_input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    target_weight: Tensor,
    target_bias: Tensor,
    history: Tensor,
    compress_weight: Tensor,
    norm_weight: Tensor,
    direction_eps: float,
    target_scale: float,
    erases: bool,
    override: Tensor | None,
    norm_eps: float,
) -> Fused:
    """Compute `ddl::delta_rewrite_token_compress_norm` by its two parts."""
    weights = (gate_weight, gate_bias, target_weight, target_bias)
    options = (direction_eps, target_scale, erases, override)
    new_state, *trace = plain_delta_rewrite(state, direction, context, target_input, *weights, *options)
    read = plain_token_compress_norm(new_state, history, compress_weight, norm_weight, norm_eps)
    return cast(Fused, (new_state, *read, *trace))


for _plain in (
    plain_compress_norm,
    plain_token_compress_norm,
    plain_delta_rewrite_compress_norm,
    plain_delta_rewrite_token_compress_norm,
):
    LIBRARY.impl(_plain.__name__.removeprefix("plain_"), _plain, "CompositeImplicitAutograd")
mark(sources(__file__))


def compress_norm(state: Float[Tensor, "*n d dv"], reading: ReadingArguments) -> Compressed:
    """Read the state: compress and norm."""
    weight, norm_weight, norm_eps, history = reading
    if history is None:
        out = torch.ops.ddl.compress_norm(state, weight, norm_weight, norm_eps)
    else:
        out = torch.ops.ddl.token_compress_norm(state, history, weight, norm_weight, norm_eps)
    return Compressed(*cast(tuple[Tensor, ...], out))


def delta_rewrite_compress_norm(
    arguments: RewriteArguments,
    reading: ReadingArguments,
    options: RewriteOptions,
    override: Float[Tensor, "*m 6"] | None = None,
) -> tuple[DeltaRewrite, Compressed]:
    """Rewrite the state as `delta_rewrite` does, and read the new state as `compress_norm` does."""
    weight, norm_weight, norm_eps, history = reading
    rest = (norm_weight, *options, override, norm_eps)
    if history is None:
        out = torch.ops.ddl.delta_rewrite_compress_norm(*arguments, weight, *rest)
    else:
        out = torch.ops.ddl.delta_rewrite_token_compress_norm(*arguments, history, weight, *rest)
    new_state, compressed, context, *trace = cast(tuple[Tensor, ...], out)
    return DeltaRewrite(new_state, *trace), Compressed(compressed, context)


def _normed(compressed: Tensor, norm_weight: Tensor, norm_eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    context = F.rms_norm(compressed, (compressed.shape[-1],), norm_weight.to(compressed.dtype), norm_eps)
    return compressed.to(dtype), context.to(dtype)
