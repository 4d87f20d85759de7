"""Layers of two sublayers, and the way through them: process what was read, rewrite the state, read it for the next."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.compress import Compressor, Reading, make_compressor
from ddl_model.compress_op import Compressed
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
    """Process what was read of the state, rewrite the state by the result, and read it for the next step.

    A step owns how itself reads: its norm, and its compressor unless its block has one for both steps.
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
        seen: Compressed,
        following: Reading,
        observer: Observer | None = None,
        stream: TokenStream | None = None,
    ) -> tuple[Float[Tensor, "b t d dv"], Compressed]:
        """Return the next state, and what `following` reads of it."""
        output = self.process(seen.context, stream)
        step: tuple[Tensor, Compressed] = self.residual(state, output, seen, following, observer)
        return step


class Block(nn.Module):
    """Attention, then feed-forward; each rewrites the state once."""

    def __init__(self, attn: SublayerStep, mlp: SublayerStep, compress: Compressor | None = None) -> None:
        """Join two sublayers, and the compressor that they share if they have none of their own."""
        super().__init__()
        self.attn = attn
        self.mlp = mlp
        self.compress = compress

    def readings(self, stream: TokenStream | None) -> list[tuple[SublayerStep, Reading]]:
        """Return both steps in order, each with how it reads the state of a pass."""
        found = []
        for step in (self.attn, self.mlp):
            compress = step.compress or self.compress
            assert compress is not None, "a step without a compressor of its own needs the block's"
            found.append((step, Reading(compress, step.norm, stream, f"{step.site}.compress")))
        return found


def run_blocks(
    blocks: Iterable[nn.Module],
    state: Float[Tensor, "b t d dv"],
    last: Reading,
    observer: Observer | None = None,
    stream: TokenStream | None = None,
) -> tuple[Float[Tensor, "b t d dv"], Compressed]:
    """Run all steps of `blocks` over a first state; return the final state, and what `last` reads of it.

    Each rewrite is one operator with the reading after it, also from block to block, so blocks are not run one by one.
    """
    steps = [pair for block in blocks if isinstance(block, Block) for pair in block.readings(stream)]
    readings = [*(reading for _, reading in steps), last]
    seen = readings[0](state)
    for (step, _), (_, following) in zip(steps, pairwise(readings), strict=True):
        state, seen = step(state, seen, following, observer, stream)
    return state, seen
