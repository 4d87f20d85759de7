# Kernels are written in Triton's language, which has neither Python's types nor its unpacking.
# mypy: ignore-errors
"""The backward kernel of the state: all gradients of some tokens in one pass over memory, backwards in time.

The new state, the unit direction and (without taps) the compressed state are made again, from the old state and a few
numbers for each token. The gradients of weights gather in registers along a program's tokens; each program writes its
own sums, which are added up afterwards in a fixed order, so equal inputs give equal bits.
"""

import triton
import triton.language as tl

from export.kernels.triton.tiles import compress_tap, float32, tap_weight


@triton.jit
def through_norm(
    at: tl.tensor,
    inside: tl.tensor,
    mixed: tl.tensor,
    inverse: tl.tensor,
    scale: tl.tensor,
    d_context: tl.tensor,
    d_compressed: tl.tensor,
    D: tl.constexpr,
) -> tl.tensor:
    """Return the gradients of a compressed token, by way of its norm and its own, and of the norm's weight."""
    d_mixed = tl.zeros_like(mixed)
    d_scale = tl.zeros_like(mixed)
    if d_context is not None:
        given = float32(d_context, at, inside)
        normed = mixed * inverse
        d_scale = given * normed
        given *= scale
        d_mixed = inverse * (given - normed * (tl.sum(given * normed, axis=0) / D))
    if d_compressed is not None:
        d_mixed += float32(d_compressed, at, inside)
    return d_mixed, d_scale


@triton.jit(do_not_specialize=["tokens", "chunk", "chunks"])
def state_backward(
    state: tl.tensor,
    direction: tl.tensor,
    beta: tl.tensor,
    target: tl.tensor,
    history: tl.tensor,
    compress_weight: tl.tensor,
    norm_weight: tl.tensor,
    compressed: tl.tensor,
    readout: tl.tensor,
    direction_norm: tl.tensor,
    inverse_rms: tl.tensor,
    d_new_state: tl.tensor,
    d_compressed: tl.tensor,
    d_context: tl.tensor,
    d_readout: tl.tensor,
    d_direction_norm: tl.tensor,
    d_state: tl.tensor,
    d_direction: tl.tensor,
    d_beta: tl.tensor,
    d_target: tl.tensor,
    d_history: tl.tensor,
    d_weights: tl.tensor,
    tokens: tl.tensor,
    chunk: tl.tensor,
    chunks: tl.tensor,
    direction_eps: tl.tensor,
    D: tl.constexpr,
    DV: tl.constexpr,
    TAPS: tl.constexpr,
    REWRITES: tl.constexpr,
    READS: tl.constexpr,
    ERASES: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Compute the gradients of one chunk; shapes and meaning as in `state_op`, None where nobody gave a gradient."""
    row = tl.program_id(0) // chunks
    part = tl.program_id(0) % chunks
    first = part * chunk
    last = tl.minimum(first + chunk, tokens)
    i = tl.arange(0, BLOCK_D)
    j = tl.arange(0, BLOCK_V)
    in_d = i < D
    in_v = j < DV
    cell = i[:, None] * DV + j[None, :]
    cells = in_d[:, None] & in_v[None, :]
    if READS:
        scale = float32(norm_weight, i, in_d)
        d_scale = tl.zeros((BLOCK_D,), tl.float32)
        tap0 = tap_weight(compress_weight, cell, cells, 0, TAPS)
        d_tap0 = tl.zeros((BLOCK_D, BLOCK_V), tl.float32)
    if READS and TAPS > 1:
        # later1 is the gradient of the compressed token after the current one, later2 of the one after that.
        tap1 = tap_weight(compress_weight, cell, cells, 1, TAPS)
        tap2 = tap_weight(compress_weight, cell, cells, 2, TAPS)
        tap3 = tap_weight(compress_weight, cell, cells, 3, TAPS)
        d_tap1 = tl.zeros((BLOCK_D, BLOCK_V), tl.float32)
        d_tap2 = tl.zeros((BLOCK_D, BLOCK_V), tl.float32)
        d_tap3 = tl.zeros((BLOCK_D, BLOCK_V), tl.float32)
        later1 = tl.zeros((BLOCK_D,), tl.float32)
        later2 = tl.zeros((BLOCK_D,), tl.float32)
        later3 = tl.zeros((BLOCK_D,), tl.float32)
        for back in range(0, TAPS - 1):
            token = last + (TAPS - 2) - back
            inside = i < tl.where(token < tokens, D, 0)
            at = (row * tokens + tl.minimum(token, tokens - 1)).to(tl.int64)
            mixed = float32(compressed, at * D + i, inside)
            later3 = later2
            later2 = later1
            later1, _ = through_norm(
                at * D + i, inside, mixed, tl.load(inverse_rms + at), scale, d_context, d_compressed, D
            )
    for back in tl.range(0, last - first, num_stages=STAGES):
        at = (row * tokens + (last - 1 - back)).to(tl.int64)
        old = float32(state, at * (D * DV) + cell, cells)
        tile = old
        d_tile = tl.zeros((BLOCK_D, BLOCK_V), tl.float32)
        if d_new_state is not None:
            d_tile = float32(d_new_state, at * (D * DV) + cell, cells)
        if REWRITES:
            raw = float32(direction, at * D + i, in_d)
            norm = tl.load(direction_norm + at)
            gate = tl.load(beta + at)
            read = float32(readout, at * DV + j, in_v)
            inverse_length = 1.0 / tl.sqrt(norm * norm + direction_eps * direction_eps)
            k = raw * inverse_length
            missing = float32(target, at * DV + j, in_v)
            if ERASES:
                missing -= read
            step = gate * missing
            tile = old + k[:, None] * step[None, :]
        if READS:
            mixed = float32(compressed, at * D + i, in_d) if TAPS > 1 else compress_tap(tile, tap0)
            d_mixed, more = through_norm(
                at * D + i, in_d, mixed, tl.load(inverse_rms + at), scale, d_context, d_compressed, D
            )
            d_scale += more
            d_tile += d_mixed[:, None] * tap0
            d_tap0 += d_mixed[:, None] * tile
            if TAPS > 1:
                d_tile += later1[:, None] * tap1 + later2[:, None] * tap2 + later3[:, None] * tap3
                d_tap1 += later1[:, None] * tile
                d_tap2 += later2[:, None] * tile
                d_tap3 += later3[:, None] * tile
                # Masked once more for nothing: values that are merely handed on keep Triton from loading ahead.
                later3 = tl.where(in_d, later2, 0.0)
                later2 = tl.where(in_d, later1, 0.0)
                later1 = d_mixed
        if REWRITES:
            d_step = tl.sum(k[:, None] * d_tile, axis=0)
            d_missing = gate * d_step
            tl.store(d_beta + at, tl.sum(d_step * missing, axis=0))
            tl.store(d_target + at * DV + j, d_missing, mask=in_v)
            d_read = tl.zeros_like(d_missing)
            if ERASES:
                d_read -= d_missing
            if d_readout is not None:
                d_read += float32(d_readout, at * DV + j, in_v)
            d_k = tl.sum(d_tile * step[None, :] + old * d_read[None, :], axis=1)
            # Along k a unit vector has no gradient. k^T d_k comes from numbers that are here already.
            along = tl.sum(d_step * step + read * d_read, axis=0)
            d_raw = (d_k - k * along) * inverse_length
            if d_direction_norm is not None:
                d_raw += raw * tl.where(norm > 0, tl.load(d_direction_norm + at) / norm, 0.0)
            tl.store(d_direction + at * D + i, d_raw, mask=in_d)
            d_tile += k[:, None] * d_read[None, :]
        tl.store(d_state + at * (D * DV) + cell, d_tile, mask=cells)
    if READS:
        # One row of sums per program: compressor, then norm.
        sums = d_weights + tl.program_id(0).to(tl.int64) * (D * DV * TAPS + D)
        if TAPS > 1 and part == 0:
            for back in range(0, TAPS - 1):
                at = (row * (TAPS - 1) + (TAPS - 2) - back).to(tl.int64) * (D * DV)
                past = float32(history, at + cell, cells)
                d_past = later1[:, None] * tap1 + later2[:, None] * tap2 + later3[:, None] * tap3
                tl.store(d_history + at + cell, d_past, mask=cells)
                d_tap1 += later1[:, None] * past
                d_tap2 += later2[:, None] * past
                d_tap3 += later3[:, None] * past
                later3 = later2
                later2 = later1
                later1 = tl.zeros((BLOCK_D,), tl.float32)
        tl.store(sums + cell * TAPS + (TAPS - 1), d_tap0, mask=cells)
        tl.store(sums + D * DV * TAPS + i, d_scale, mask=in_d)
        if TAPS > 1:
            tl.store(sums + cell * TAPS + (TAPS - 2), d_tap1, mask=cells)
        if TAPS > 2:
            tl.store(sums + cell * TAPS + (TAPS - 3), d_tap2, mask=cells)
        if TAPS > 3:
            tl.store(sums + cell * TAPS + (TAPS - 4), d_tap3, mask=cells)
