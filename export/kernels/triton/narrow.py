# Kernels are written in Triton's language, which has neither Python's types nor its unpacking.
# mypy: ignore-errors
# ruff: noqa: RUF005
"""Kernels of a linear layer with few outputs, `y = x W^T + b`: what gates and targets are made by.

They are bound by memory as long as their sums stay in registers: each output has its own tile (ROWS, COLUMNS) of
partial sums, which are added up once at the end. So any width goes, without padding to a power of two.
"""

import triton
import triton.language as tl

from export.kernels.triton.tiles import float32


@triton.jit(do_not_specialize=["tokens"])
def narrow_forward(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    tokens: tl.tensor,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Compute ROWS tokens, COLUMNS numbers of each at a time."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    sums = ()
    for _ in tl.static_range(OUTPUTS):
        sums = sums + (tl.zeros((ROWS, COLUMNS), tl.float32),)
    for start in tl.range(0, WIDTH, COLUMNS, num_stages=STAGES):
        here = start + column < WIDTH
        seen = float32(x, at[:, None] * WIDTH + (start + column)[None, :], (at < tokens)[:, None] & here[None, :])
        more = ()
        for output in tl.static_range(OUTPUTS):
            more = more + (sums[output] + seen * float32(weight, output * WIDTH + start + column, here)[None, :],)
        sums = more
    for output in tl.static_range(OUTPUTS):
        total = tl.sum(sums[output], axis=1) + tl.load(bias + output).to(tl.float32)
        tl.store(y + at * OUTPUTS + output, total, mask=at < tokens)


@triton.jit(do_not_specialize=["tokens", "chunk"])
def narrow_backward(
    x: tl.tensor,
    weight: tl.tensor,
    d_y: tl.tensor,
    d_x: tl.tensor,
    d_weights: tl.tensor,
    tokens: tl.tensor,
    chunk: tl.tensor,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Compute COLUMNS numbers of `chunk` tokens, a multiple of ROWS; programs are (chunks, columns).

    Each chunk leaves a row of sums: gradients of the weight, then of the bias.
    """
    first = tl.program_id(0) * chunk
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = column < WIDTH
    sums = ()
    weights = ()
    biases = ()
    for output in tl.static_range(OUTPUTS):
        sums = sums + (tl.zeros((ROWS, COLUMNS), tl.float32),)
        biases = biases + (tl.zeros((ROWS,), tl.float32),)
        weights = weights + (float32(weight, output * WIDTH + column, here),)
    for start in tl.range(first, tl.minimum(first + chunk, tokens), ROWS, num_stages=STAGES):
        at = (start + tl.arange(0, ROWS)).to(tl.int64)
        inside = (at < tokens)[:, None] & here[None, :]
        seen = float32(x, at[:, None] * WIDTH + column[None, :], inside)
        d_seen = tl.zeros((ROWS, COLUMNS), tl.float32)
        more = ()
        more_biases = ()
        for output in tl.static_range(OUTPUTS):
            given = float32(d_y, at * OUTPUTS + output, at < tokens)
            d_seen += given[:, None] * weights[output][None, :]
            more = more + (sums[output] + given[:, None] * seen,)
            more_biases = more_biases + (biases[output] + given,)
        sums = more
        biases = more_biases
        tl.store(d_x + at[:, None] * WIDTH + column[None, :], d_seen, mask=inside)
    row = d_weights + tl.program_id(0).to(tl.int64) * (OUTPUTS * WIDTH + OUTPUTS)
    for output in tl.static_range(OUTPUTS):
        tl.store(row + output * WIDTH + column, tl.sum(sums[output], axis=0), mask=here)
        if tl.program_id(1) == 0:
            tl.store(row + OUTPUTS * WIDTH + output, tl.sum(biases[output], axis=0))
