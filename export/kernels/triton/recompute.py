"""Compiled networks that keep few states between forward and backward, and make the others again.

A state is d_v times as large as what an additive network keeps of its residual stream, so peak memory grows by it. The
forward kernel of the state, repeated in the backward pass, gives the states between two that were kept, and what was
read of them, to the last bit; its inputs (the sublayers' outputs, gates and targets) are kept anyway. The price is its
bytes once more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# Importing it defines the operators of `ddl_triton`.
import export.kernels.triton.state_op  # noqa: F401

T = TypeVar("T")


def keep_every(function: Callable[..., T], every: int) -> Callable[..., T]:
    """Return `function` (a network, or a part of one) such that one in `every` states in it is kept, the first one too.

    For `torch.compile` alone, which decides about everything else as usual: without it all results of all operators
    would be kept.
    """

    def run(*args: Any, **kwargs: Any) -> T:
        contexts = partial(_contexts, every)
        result: T = checkpoint(function, *args, use_reentrant=False, context_fn=contexts, **kwargs)
        return result

    return run


def _contexts(every: int) -> Any:
    seen = 0

    def policy(ctx: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        nonlocal seen
        if operator is not torch.ops.ddl_triton.state.default:
            return CheckpointPolicy.PREFER_SAVE
        seen += 1
        return CheckpointPolicy.MUST_SAVE if seen % every == 1 or every == 1 else CheckpointPolicy.MUST_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
