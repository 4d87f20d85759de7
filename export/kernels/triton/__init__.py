"""Fused Triton kernels for training: rewrite, compress and RMSNorm in one pass over the state, forward and backward.

`enable()` puts them behind the torch operators of `ddl_model` on NVIDIA cards; the model knows nothing of it. A
training run names this package (`ddl-train --kernels`). Kernels are in `state_forward`, `state_backward` and `narrow`,
operators around them in `state_op` and `narrow_op`, and how they are started in `launch`.

Bytes. All of this is bound by memory: arithmetic is below 1 % of a network's products. In numbers of d elements of the
state's type for each token, with d_v = 4, and what each kernel must at least move (its floor):

| kernel | reads | writes | moves | floor |
| --- | --- | --- | --- | --- |
| rewrite alone, forward | X 4, h 1 | X' 4 | 9 | 9 |
| rewrite + compress + norm, forward | X 4, h 1 | X' 4, x 1, c 1 | 11 | 10 if x is of no use |
| compress + norm, forward | X 4 | x 1, c 1 | 6 | 5 if x is of no use |
| gate and target, forward | c 1, u 1 (1 together if u is c) | | 2 | 0 if made where c is |
| rewrite + compress + norm, backward | X 4, dX' 4, h 1, dc 1, dx 1 | dX 4, dh 1 | 16 | 16 |
| gate and target, backward | c 1, u 1 | dc 1, du 1 | 4 | 0 if made where c is |

With taps the backward reads x too, and each chunk of tokens repeats the rewrite of taps - 1 tokens. The numbers of each
token (gate, target, readout, lengths: at most `4 (2 d_v + 4)` bytes) and the weights are left out.

With 768 x 4 bfloat16 the state's kernels issue about 540 instructions forward and 880 backward per scheduler and token,
which takes 2 / 3 of the time of their bytes on an H200 (compiled for it and counted, not yet timed).

Memory. Between forward and backward stay X, h, c and what the target is made of, which autograd holds as inputs, and
a few numbers for each token; X', k and (without taps) x are made again. X must stay: it could be had from X' by undoing
the step, which is known, but in bfloat16 not to the last bit, and errors would grow from rewrite to rewrite. With
`keep_every` (`ddl-train --keep-states`) compiled networks keep few states all the same, and repeat forward kernels
instead.

Sums are float32 whatever the types, each in a fixed order without atomics: equal inputs give equal bits.
"""

from export.kernels.triton.recompute import keep_every
from export.kernels.triton.register import disable, enable

__all__ = ["disable", "enable", "keep_every"]
