"""`ddl_triton::narrow`: a linear layer with few outputs as one operator, with its gradient; sums are float32."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from export.kernels.triton.launch import COMPILE, narrow_launch
from export.kernels.triton.library import LIBRARY, dense, empty_dense, grid_size, register, split_like
from export.kernels.triton.narrow import narrow_backward, narrow_forward

LIBRARY.define("narrow(Tensor x, Tensor weight, Tensor bias) -> Tensor")
LIBRARY.define("narrow_backward(Tensor x, Tensor weight, Tensor bias, Tensor d_y) -> (Tensor d_x, Tensor d_weights)")


def _empty(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(weight)), dtype=torch.float32)


def _run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = _empty(x, weight, bias)
    outputs, width = weight.shape
    tokens = x.shape[:-1].numel()
    if tokens:
        launch = narrow_launch(tokens, outputs, width, x.device)
        narrow_forward[(grid_size(tokens, launch.rows),)](
            x,
            weight,
            bias,
            y,
            tokens,
            width,
            outputs,
            launch.rows,
            launch.columns,
            STAGES=2,
            num_warps=launch.warps,
            **COMPILE,
        )
    return y


def _empty_gradients(x: Tensor, weight: Tensor, bias: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    return empty_dense(x), x.new_empty(weight.numel() + bias.numel(), dtype=torch.float32)


def _run_backward(x: Tensor, weight: Tensor, bias: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    d_x, d_weights = _empty_gradients(x, weight, bias, d_y)
    outputs, width = weight.shape
    tokens = x.shape[:-1].numel()
    if not tokens:
        return d_x, d_weights.zero_()
    launch = narrow_launch(tokens, outputs, width, x.device)
    sums = d_weights.new_empty(launch.chunks, d_weights.numel())
    narrow_backward[(launch.chunks, grid_size(width, launch.columns))](
        x,
        weight,
        d_y,
        d_x,
        sums,
        tokens,
        launch.chunk,
        width,
        outputs,
        launch.rows,
        launch.columns,
        STAGES=2,
        num_warps=launch.warps,
        **COMPILE,
    )
    return d_x, sums.sum(0)


class _NarrowFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        inputs = dense(x), dense(weight), dense(bias)
        ctx.save_for_backward(*inputs)
        y: Tensor = torch.ops.ddl_triton.narrow(*inputs)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        d_x, d_weights = torch.ops.ddl_triton.narrow_backward(x, *weights, dense(d_y))
        found = (d_x, *split_like(d_weights, weights))
        return tuple(gradient if needed else None for gradient, needed in zip(found, ctx.needs_input_grad, strict=True))


def narrow_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `x W^T + b` (*n, outputs) in float32, for x (*n, width)."""
    y: Tensor = _NarrowFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


register("narrow", _run, _empty)
register("narrow_backward", _run_backward, _empty_gradients)
