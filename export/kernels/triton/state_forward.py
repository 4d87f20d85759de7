# Kernels are written in Triton's language, which has neither Python's types nor its unpacking.
# mypy: ignore-errors
"""The forward kernel of the state: rewrite it, read it for the next sublayer, or both in one pass over memory.

A program walks along neighbouring tokens of one row and holds the compressor's weights in registers meanwhile. A state
is one tile, (BLOCK_D, BLOCK_V): its sizes rounded up to powers of two, the rest masked. The new state is read before it
is rounded to its type.
"""

import triton
import triton.language as tl

from export.kernels.triton.tiles import compress_tap, float32, tap_weight


@triton.jit
def rewrite(
    tile: tl.tensor, raw: tl.tensor, gate: tl.tensor, wanted: tl.tensor, direction_eps: tl.tensor, ERASES: tl.constexpr
) -> tl.tensor:
    """Return a token's new state, its readout before, and the length of its raw direction."""
    square = tl.sum(raw * raw, axis=0)
    k = raw / tl.sqrt(square + direction_eps * direction_eps)
    read = tl.sum(k[:, None] * tile, axis=0)
    missing = wanted
    if ERASES:
        missing = wanted - read
    return tile + k[:, None] * (gate * missing)[None, :], read, tl.sqrt(square)


@triton.jit(do_not_specialize=["tokens", "chunk", "chunks"])
def state_forward(
    state: tl.tensor,
    direction: tl.tensor,
    beta: tl.tensor,
    target: tl.tensor,
    history: tl.tensor,
    compress_weight: tl.tensor,
    norm_weight: tl.tensor,
    new_state: tl.tensor,
    compressed: tl.tensor,
    context: tl.tensor,
    readout: tl.tensor,
    direction_norm: tl.tensor,
    inverse_rms: tl.tensor,
    tokens: tl.tensor,
    chunk: tl.tensor,
    chunks: tl.tensor,
    direction_eps: tl.tensor,
    norm_eps: tl.tensor,
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
    """Compute the tokens of one chunk; shapes and meaning as in `state_op`."""
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
        tap0 = tap_weight(compress_weight, cell, cells, 0, TAPS)
    if READS and TAPS > 1:
        # ahead1 is what the tokens so far add to the next compressed token, ahead2 to the one after it, and so on.
        tap1 = tap_weight(compress_weight, cell, cells, 1, TAPS)
        tap2 = tap_weight(compress_weight, cell, cells, 2, TAPS)
        tap3 = tap_weight(compress_weight, cell, cells, 3, TAPS)
        ahead1 = tl.zeros((BLOCK_D,), tl.float32)
        ahead2 = tl.zeros((BLOCK_D,), tl.float32)
        ahead3 = tl.zeros((BLOCK_D,), tl.float32)
        for back in range(0, TAPS - 1):
            # The tokens just before the chunk are in the history, or rewritten here too but not stored.
            token = first - (TAPS - 1) + back
            if token < 0:
                past = float32(history, (row * (TAPS - 1) + token + (TAPS - 1)).to(tl.int64) * (D * DV) + cell, cells)
            else:
                at = (row * tokens + token).to(tl.int64)
                past = float32(state, at * (D * DV) + cell, cells)
                if REWRITES:
                    raw = float32(direction, at * D + i, in_d)
                    wanted = float32(target, at * DV + j, in_v)
                    past, _, _ = rewrite(past, raw, tl.load(beta + at), wanted, direction_eps, ERASES)
            ahead1 = ahead2 + compress_tap(past, tap1)
            ahead2 = ahead3 + compress_tap(past, tap2)
            ahead3 = compress_tap(past, tap3)
    for token in tl.range(first, last, num_stages=STAGES):
        at = (row * tokens + token).to(tl.int64)
        tile = float32(state, at * (D * DV) + cell, cells)
        if REWRITES:
            raw = float32(direction, at * D + i, in_d)
            wanted = float32(target, at * DV + j, in_v)
            tile, read, length = rewrite(tile, raw, tl.load(beta + at), wanted, direction_eps, ERASES)
            tl.store(new_state + at * (D * DV) + cell, tile, mask=cells)
            tl.store(direction_norm + at, length)
            tl.store(readout + at * DV + j, read, mask=in_v)
        if READS:
            mixed = compress_tap(tile, tap0)
            if TAPS > 1:
                mixed += ahead1
                ahead1 = ahead2 + compress_tap(tile, tap1)
                ahead2 = ahead3 + compress_tap(tile, tap2)
                ahead3 = compress_tap(tile, tap3)
            inverse = 1.0 / tl.sqrt(tl.sum(mixed * mixed, axis=0) / D + norm_eps)
            tl.store(compressed + at * D + i, mixed, mask=in_d)
            tl.store(context + at * D + i, mixed * inverse * scale, mask=in_d)
            tl.store(inverse_rms + at, inverse)
