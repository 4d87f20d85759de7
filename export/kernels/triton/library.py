"""The namespace `ddl_triton` of operators that are opaque to compilers, and what those operators share."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

LIBRARY = torch.library.Library("ddl_triton", "DEF")


def register(name: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Give an operator its kernel, and how its results look for tracing.

    Compilers may lay tensors out as they please (Inductor pads rows), kernels take them without gaps.
    """

    def run_dense(*arguments: Any) -> Any:
        return run(*(dense(value) if isinstance(value, Tensor) else value for value in arguments))

    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run_dense, key)
    torch.library.register_fake(f"ddl_triton::{name}", fake, lib=LIBRARY)


@overload
def dense(tensor: Tensor) -> Tensor: ...
@overload
def dense(tensor: None) -> None: ...
def dense(tensor: Tensor | None) -> Tensor | None:
    """Return a tensor in the layout that the kernels read: row-major without gaps."""
    return None if tensor is None else tensor.contiguous()


def empty_dense(tensor: Tensor) -> Tensor:
    """Return memory for a tensor of that shape and type, row-major without gaps."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def grid_size(length: int, step: int) -> int:
    """Return how many steps cover a length."""
    return -(-length // step)


def split_like(flat: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the parts of `flat`, one for each weight in order, in the weights' shapes and dtypes."""
    parts = flat.split([weight.numel() for weight in weights])
    return [part.reshape(weight.shape).to(weight.dtype) for part, weight in zip(parts, weights, strict=True)]
