# Kernels are written in Triton's language, which has neither Python's types nor its unpacking.
# mypy: ignore-errors
"""What the kernels have in common: loading as float32, and a compressor's taps."""

import triton
import triton.language as tl


@triton.jit
def float32(pointer: tl.tensor, at: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Load numbers as float32, 0 where they are not inside."""
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def tap_weight(
    weight: tl.tensor, cell: tl.tensor, cells: tl.tensor, BACK: tl.constexpr, TAPS: tl.constexpr
) -> tl.tensor:
    """Load what a state weighs in the compressed token that is BACK tokens later, 0 where that is out of reach."""
    tap = tl.zeros_like(cell).to(tl.float32)
    if BACK < TAPS:
        tap = float32(weight, cell * TAPS + (TAPS - 1 - BACK), cells)
    return tap


@triton.jit
def compress_tap(tile: tl.tensor, tap: tl.tensor) -> tl.tensor:
    """Return what one tap sees of a state."""
    return tl.sum(tile * tap, axis=1)
