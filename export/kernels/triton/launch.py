"""How the kernels are started: a function of shapes and card alone, so that the order of every sum is fixed.

The choices, by what they compile to for compute capability 9.0 (`tests/export/test_triton_compile.py` guards it):

- State kernels: a thread has 32 cells of the state in the forward kernel and 16 in the backward, which holds four such
  tiles (768 x 4 cells, in a tile of 4096: 4 and 8 warps). More threads per token mean more shuffles and barriers per
  token, fewer mean spilled registers. Loads run STAGES - 1 tokens ahead, so that the two or three programs that fit on
  a multiprocessor keep enough bytes in flight.
- A program of the backward writes its own sums of weight gradients, so its chunk is at least 16 tokens: at most 6 % of
  the bytes that it moves. A program that compresses over tokens repeats the rewrite of taps - 1 tokens.
- Narrow linear layers: 8 tokens times 256 columns, 16 a lane, with 5 partial sums each; 128 columns for up to 9.
"""

from dataclasses import dataclass
from math import ceil

import torch
import triton

from export.kernels.triton.device import processors


@dataclass(frozen=True)
class Launch:
    """`chunks` programs per row of tokens, each on `chunk` tokens or, the last, on fewer; warps, and loads ahead."""

    chunk: int
    chunks: int
    warps: int
    stages: int


def block(size: int) -> int:
    """Return the power of two that holds an axis."""
    return int(triton.next_power_of_2(int(size)))


def cells_of(width: int, value_channels: int) -> int:
    """Return the size of the tile that holds a state."""
    return block(width) * block(value_channels)


def state_launch(shape: torch.Size, rows: int, tokens: int, device: torch.device, *, backward: bool) -> Launch:
    """Return how to start a kernel of the state, for states (*n, d, dv) in `rows` rows of `tokens`."""
    least, per_processor, cells_per_lane, stages = (16, 4, 32, 3) if backward else (8, 16, 32, 3)
    chunk, chunks = _chunks(rows, tokens, least, processors(device) * per_processor)
    warps = min(max(cells_of(shape[-2], shape[-1]) // (32 * cells_per_lane), 1), 16)
    return Launch(chunk, chunks, warps, stages)


@dataclass(frozen=True)
class NarrowLaunch:
    """Tiles of `rows` tokens and `columns`; in the backward kernel `chunks` programs, each on `chunk` tokens."""

    rows: int
    columns: int
    chunk: int
    chunks: int
    warps: int


def narrow_launch(tokens: int, outputs: int, width: int, device: torch.device) -> NarrowLaunch:
    """Return how to start a kernel of a narrow linear layer."""
    columns = min(block(width), 256 if outputs <= 5 else 128)
    rows = 8
    chunk, chunks = _chunks(1, ceil(tokens / rows), 4, processors(device) * 4)
    return NarrowLaunch(rows, columns, chunk * rows, chunks, min(max(rows * columns // 512, 1), 4))


def _chunks(rows: int, length: int, least: int, programs: int) -> tuple[int, int]:
    """Divide rows into chunks of at least `least`, so that there are about as many as `programs`."""
    chunk = min(max(ceil(rows * length / programs), least), max(length, 1))
    return chunk, ceil(length / chunk)
