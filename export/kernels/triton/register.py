"""The kernels behind `ddl::delta_rewrite` and the operators around it, for one type of device.

Those operators are composite. A kernel for a device's autograd key goes before the plain formula there, also under
`torch.compile`, whose tracing passes the same key; the key without autograd serves `torch.inference_mode`. All other
devices keep the plain formula, and so does the exporter.
"""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddl_model import compress_op, delta, delta_op
from ddl_model.compiled_formulas import mark, sources, unmark
from ddl_model.delta_op import RewriteArguments, RewriteOptions
from export.kernels.triton.device import device_type
from export.kernels.triton.launch import cells_of
from export.kernels.triton.narrow_op import narrow_linear
from export.kernels.triton.state_op import StateInputs, StateOptions, state_step

MOST_TAPS = 4
MOST_CELLS = 16384
"""Largest tile of a state: above, its sums for the weights leave the registers of a multiprocessor."""

log = logging.getLogger(__name__)

_registered: list[torch.library.Library] = []


def enable() -> bool:
    """Let the operators run on the kernels wherever these can compute them; return whether they can at all here.

    Where they cannot, the plain formula runs, and the log says so once for each reason: an override of gates, float64,
    a shape beyond the limits above. Calling this again changes nothing.
    """
    device = device_type()
    if device is None:
        log.warning("delta kernels are off: there is no NVIDIA card, the plain formula runs")
        return False
    if not _registered:
        library = torch.library.Library("ddl", "IMPL")
        for name, kernel in _KERNELS.items():
            for key in (device.upper(), f"Autograd{device.upper()}"):
                library.impl(name, kernel, key)
        _registered.append(library)
        _forget_dispatch()
        mark(_compiled_with())
        log.info("delta kernels are on: Triton, %s", device)
    return True


def disable() -> None:
    """Go back to the plain formula everywhere."""
    while _registered:
        _registered.pop()._destroy()
        _forget_dispatch()
        unmark(_compiled_with())


def _forget_dispatch() -> None:
    """Let torch look again which kernel serves a key: once an operator was exported, it keeps the old answers."""
    for name in _KERNELS:
        getattr(torch.ops.ddl, name).default._dispatch_cache.clear()


@cache
def _compiled_with() -> str:
    """Return the part of the key of compiled graphs that tells these kernels."""
    return sources(__file__, *sorted(Path(__file__).parent.glob("*.py")))


class _Reading(NamedTuple):
    history: Tensor | None = None
    weight: Tensor | None = None
    norm_weight: Tensor | None = None
    norm_eps: float = 0.0


def _delta_rewrite(*a: Any) -> tuple[Tensor, ...]:
    arguments, options, override = RewriteArguments(*a[:8]), RewriteOptions(*a[8:11]), a[11]
    if _falls_back("delta_rewrite", arguments.state, arguments, _Reading(), override):
        return delta_op.plain_delta_rewrite(*a)
    new_state, _, _, *trace = _fused(arguments, options, _Reading())
    return new_state, *trace


def _compress_norm(state: Tensor, weight: Tensor, norm_weight: Tensor, norm_eps: float) -> tuple[Tensor, ...]:
    reading = _Reading(None, weight, norm_weight, norm_eps)
    if _falls_back("compress_norm", state, None, reading):
        return compress_op.plain_compress_norm(state, weight, norm_weight, norm_eps)
    return _read(state, reading)


def _token_compress_norm(
    state: Tensor, history: Tensor, weight: Tensor, norm_weight: Tensor, norm_eps: float
) -> tuple[Tensor, ...]:
    reading = _Reading(history, weight, norm_weight, norm_eps)
    if _falls_back("token_compress_norm", state, None, reading):
        return compress_op.plain_token_compress_norm(state, history, weight, norm_weight, norm_eps)
    return _read(state, reading)


def _delta_rewrite_compress_norm(*a: Any) -> tuple[Tensor, ...]:
    arguments, options, override = RewriteArguments(*a[:8]), RewriteOptions(*a[10:13]), a[13]
    reading = _Reading(None, a[8], a[9], a[14])
    if _falls_back("delta_rewrite_compress_norm", arguments.state, arguments, reading, override):
        return compress_op.plain_delta_rewrite_compress_norm(*a)
    return _fused(arguments, options, reading)


def _delta_rewrite_token_compress_norm(*a: Any) -> tuple[Tensor, ...]:
    arguments, options, override = RewriteArguments(*a[:8]), RewriteOptions(*a[11:14]), a[14]
    reading = _Reading(a[8], a[9], a[10], a[15])
    if _falls_back("delta_rewrite_token_compress_norm", arguments.state, arguments, reading, override):
        return compress_op.plain_delta_rewrite_token_compress_norm(*a)
    return _fused(arguments, options, reading)


_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "delta_rewrite": _delta_rewrite,
    "compress_norm": _compress_norm,
    "token_compress_norm": _token_compress_norm,
    "delta_rewrite_compress_norm": _delta_rewrite_compress_norm,
    "delta_rewrite_token_compress_norm": _delta_rewrite_token_compress_norm,
}


def _fused(arguments: RewriteArguments, options: RewriteOptions, reading: _Reading) -> tuple[Tensor, ...]:
    """Compute gates, then the state; return what the fused operators do, in their order."""
    logit, target = _linear(arguments)
    beta = delta.gate_from_logit(logit)
    if options.target_scale > 0:
        target = options.target_scale * torch.sigmoid(target)
    inputs = StateInputs(arguments.state, arguments.direction, beta, target, *reading[:3])
    out = state_step(inputs, StateOptions(options.direction_eps, options.erases, reading.norm_eps))
    return *out[:3], beta, logit, target, out.readout, out.direction_norm


def _linear(arguments: RewriteArguments) -> tuple[Tensor, Tensor]:
    """Return the logit of the gate and the target before its squashing, by one pass over their input if it is one."""
    _, _, context, target_input, gate_weight, gate_bias, target_weight, target_bias = arguments
    if target_input is not context:
        logit = narrow_linear(context, gate_weight, gate_bias).squeeze(-1)
        return logit, narrow_linear(target_input, target_weight, target_bias)
    weight = torch.cat([gate_weight.float(), target_weight.float()])
    both = narrow_linear(context, weight, torch.cat([gate_bias.float(), target_bias.float()]))
    return both[..., 0].contiguous(), both[..., 1:].contiguous()


def _read(state: Tensor, reading: _Reading) -> tuple[Tensor, ...]:
    inputs = StateInputs(state, None, None, None, *reading[:3])
    return state_step(inputs, StateOptions(0.0, False, reading.norm_eps))[1:3]


def _falls_back(
    name: str, state: Tensor, arguments: RewriteArguments | None, reading: _Reading, override: Tensor | None = None
) -> bool:
    reason = "gates are overridden" if override is not None else _obstacle(state, arguments, reading)
    if reason is not None:
        _tell(name, reason)
    return reason is not None


@cache
def _tell(name: str, reason: str) -> None:
    log.warning("ddl::%s runs as the plain formula: %s", name, reason)


def _obstacle(state: Tensor, arguments: RewriteArguments | None, reading: _Reading) -> str | None:
    """Return why the kernels cannot compute a call, or None if they can."""
    given = {"state": state} if arguments is None else arguments._asdict()
    given |= {name: value for name, value in reading._asdict().items() if isinstance(value, Tensor)}
    for name, tensor in given.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{name} is {tensor.dtype}"
    width, channels = state.shape[-2:]
    if cells_of(width, channels) > MOST_CELLS:
        return f"a state of {width} x {channels} has more than {MOST_CELLS} cells"
    taps = 1 if reading.history is None else reading.history.shape[1] + 1
    if taps > MOST_TAPS:
        return f"{taps} taps are more than {MOST_TAPS}"
    for name, tensor in given.items():
        if tensor.numel() == 0 and name != "history" and state.numel():
            return f"{name} is empty"
    return None
