"""How the kernels are started: a function of shapes and card alone, so that the order of every sum is fixed.

The choices, by what they compile to for compute capability 9.0 (`tests/export/test_triton_compile.py` guards it):

- State kernels: a thread has 32 cells of the state: 4 warps for 768 x 4 cells, in a tile of 4096. More threads for a
  token mean more shuffles and barriers: 8 warps would issue half as many instructions again, more than the time of the
  bytes allows. Fewer would spill registers, as 4 warps would in the backward kernel with taps, where a thread has 16.
  Loads run two tokens ahead, so that the two to four programs that fit on a multiprocessor keep 60 kB in flight.
- A program of the backward writes its own sums of weight gradients, so its chunk is at least 16 tokens: at most 6 % of
  the bytes that it moves. A program that compresses over tokens repeats the rewrite of taps - 1 tokens.
- Narrow linear layers: 8 tokens times 256 columns, 16 a lane, with 5 partial sums each; 128 columns for up to 9.
"""

from dataclasses import dataclass
from math import ceil

import torch
import triton

from export.kernels.triton.device import processors

COMPILE = {"enable_fp_fusion": True}
"""Products and sums in one instruction: Triton 3.10 will no longer do so by itself."""


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


def state_launch(
    shape: torch.Size, rows: int, tokens: int, taps: int, device: torch.device, *, backward: bool
) -> Launch:
    """Return how to start a kernel of the state, for states (*n, d, dv) in `rows` rows of `tokens`."""
    least, per_processor = (16, 4) if backward else (8, 16)
    cells_per_lane = 16 if backward and taps > 1 else 32
    chunk, chunks = _chunks(rows, tokens, least, processors(device) * per_processor)
    warps = min(max(cells_of(shape[-2], shape[-1]) // (32 * cells_per_lane), 1), 16)
    return Launch(chunk, chunks, warps, 3)


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
