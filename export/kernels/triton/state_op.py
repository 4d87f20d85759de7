"""`ddl_triton::state`: rewrite the state and read it for the next sublayer, as one operator with its gradient.

Between forward and backward the inputs are kept, which autograd holds anyway, and `d_v + 2` float32 numbers of each
token beside its gate and target; with taps the compressed state too.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from export.kernels.triton.launch import COMPILE, block, state_launch
from export.kernels.triton.library import LIBRARY, dense, empty_dense, register, split_like
from export.kernels.triton.state_backward import state_backward
from export.kernels.triton.state_forward import state_forward


class StateInputs(NamedTuple):
    """State (*n, d, dv), raw direction (*n, d), gate (*n) and target (*n, dv), then what `ReadingArguments` holds.

    Without `direction` the state is only read, without `compress_weight` only rewritten.
    """

    state: Tensor
    direction: Tensor | None = None
    beta: Tensor | None = None
    target: Tensor | None = None
    history: Tensor | None = None
    compress_weight: Tensor | None = None
    norm_weight: Tensor | None = None

    @property
    def taps(self) -> int:
        """Tokens that the compressor looks at: 1 where it has no history, or an empty one."""
        return 1 if self.history is None else self.history.shape[1] + 1

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of tokens and the length of each; without a look back all tokens are one row."""
        leading = self.state.shape[:-2]
        return (leading[0], leading[1]) if self.taps > 1 else (1, leading.numel())

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """What all tokens share, in the order in which the kernel lays down the gradients."""
        return tuple(weight for weight in self[5:] if weight is not None)

    def constants(self, erases: bool) -> dict[str, Any]:
        """Return what the kernels are compiled for."""
        width, channels = self.state.shape[-2:]
        return {
            "D": width,
            "DV": channels,
            "TAPS": self.taps,
            "REWRITES": self.direction is not None,
            "READS": self.compress_weight is not None,
            "ERASES": erases,
            "BLOCK_D": block(width),
            "BLOCK_V": block(channels),
        }


class StateOptions(NamedTuple):
    """See `ddl_model.delta_op.RewriteOptions` and `ddl_model.compress_op.ReadingArguments`."""

    direction_eps: float
    erases: bool
    norm_eps: float


class StateResults(NamedTuple):
    """New state (*n, d, dv), compressed and context (*n, d) in its type; readout (*n, dv) and lengths (*n) in float32.

    `inverse_rms` (*n) is `1 / sqrt(mean(compressed^2) + norm_eps)`. Results of parts that a call lacks are empty.
    """

    new_state: Tensor
    compressed: Tensor
    context: Tensor
    readout: Tensor
    direction_norm: Tensor
    inverse_rms: Tensor


_INPUTS = (
    "Tensor state, Tensor? direction, Tensor? beta, Tensor? target, Tensor? history, Tensor? compress_weight, "
    "Tensor? norm_weight, float direction_eps, bool erases, float norm_eps"
)
LIBRARY.define(
    f"state({_INPUTS}) -> (Tensor new_state, Tensor compressed, Tensor context, Tensor readout, "
    "Tensor direction_norm, Tensor inverse_rms)"
)
LIBRARY.define(
    f"state_backward({_INPUTS}, Tensor? compressed, Tensor readout, Tensor direction_norm, Tensor inverse_rms, "
    "Tensor? d_new_state, Tensor? d_compressed, Tensor? d_context, Tensor? d_readout, Tensor? d_direction_norm) -> "
    "(Tensor d_state, Tensor d_direction, Tensor d_beta, Tensor d_target, Tensor d_history, Tensor d_weights)"
)


def _unpack(arguments: tuple[Any, ...]) -> tuple[StateInputs, StateOptions, tuple[Any, ...]]:
    return StateInputs(*arguments[:7]), StateOptions(*arguments[7:10]), arguments[10:]


def _empty(*arguments: Any) -> StateResults:
    inputs, _, _ = _unpack(arguments)
    state, n = inputs.state, inputs.state.shape[:-2]
    rewrites, reads = inputs.direction is not None, inputs.compress_weight is not None

    def empty(here: bool, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return state.new_empty(shape if here else (0,), dtype=dtype)

    return StateResults(
        empty(rewrites, *state.shape, dtype=state.dtype),
        empty(reads, *state.shape[:-1], dtype=state.dtype),
        empty(reads, *state.shape[:-1], dtype=state.dtype),
        empty(rewrites, *n, state.shape[-1]),
        empty(rewrites, *n),
        empty(reads, *n),
    )


def _run(*arguments: Any) -> StateResults:
    inputs, options, _ = _unpack(arguments)
    results = _empty(*arguments)
    rows, tokens = inputs.rows
    if inputs.state.numel():
        launch = state_launch(inputs.state.shape, rows, tokens, inputs.taps, inputs.state.device, backward=False)
        state_forward[(rows * launch.chunks,)](
            *inputs,
            *results,
            tokens,
            launch.chunk,
            launch.chunks,
            options.direction_eps,
            options.norm_eps,
            **inputs.constants(options.erases),
            STAGES=launch.stages,
            num_warps=launch.warps,
            **COMPILE,
        )
    return results


def _empty_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, _, _ = _unpack(arguments)
    like = (inputs.state.new_empty(0) if tensor is None else empty_dense(tensor) for tensor in inputs[:5])
    numbers = sum(weight.numel() for weight in inputs.weights)
    return *like, inputs.state.new_empty(numbers, dtype=torch.float32)


def _run_backward(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, options, given = _unpack(arguments)
    *gradients, d_weights = _empty_gradients(*arguments)
    rows, tokens = inputs.rows
    if not inputs.state.numel():
        return tuple(gradient.zero_() for gradient in (*gradients, d_weights))
    launch = state_launch(inputs.state.shape, rows, tokens, inputs.taps, inputs.state.device, backward=True)
    sums = d_weights.new_empty(rows * launch.chunks, d_weights.numel())
    state_backward[(rows * launch.chunks,)](
        *inputs,
        *given,
        *gradients,
        sums,
        tokens,
        launch.chunk,
        launch.chunks,
        options.direction_eps,
        **inputs.constants(options.erases),
        STAGES=launch.stages,
        num_warps=launch.warps,
        **COMPILE,
    )
    return *gradients, sums.sum(0)


class _StateFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: StateOptions, state: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        inputs = StateInputs(dense(state), *(dense(tensor) for tensor in rest))
        results = StateResults(*torch.ops.ddl_triton.state(*inputs, *options))
        ctx.options = options
        ctx.save_for_backward(*inputs, results.compressed if inputs.taps > 1 else None, *results[3:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(result for result in results[:5] if result.shape == (0,)))
        return results[:5]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, kept = StateInputs(*ctx.saved_tensors[:7]), ctx.saved_tensors[7:]
        *gradients, d_weights = torch.ops.ddl_triton.state_backward(
            *inputs, *ctx.options, *kept, *(dense(gradient) for gradient in given)
        )
        weights = split_like(d_weights, inputs.weights) if inputs.weights else (None, None)
        found = zip((None, *gradients, *weights), ctx.needs_input_grad, strict=True)
        return tuple(gradient if needed else None for gradient, needed in found)


def state_step(inputs: StateInputs, options: StateOptions) -> StateResults:
    """Rewrite and read a state; `inverse_rms` is left out."""
    results: list[Tensor] = [*_StateFunction.apply(options, *inputs)]  # type: ignore[no-untyped-call]
    return StateResults(*results, *[inputs.state.new_empty(0)])


register("state", _run, _empty)
register("state_backward", _run_backward, _empty_gradients)
