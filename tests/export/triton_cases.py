"""Arguments for the Triton kernels, and the plain formula in float64 to compare with.

Without a card the kernels run in Triton's interpreter, which must be asked for before Triton is imported.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from ddl_model.compress_op import ReadingArguments, compress_norm, delta_rewrite_compress_norm
from ddl_model.delta_op import RewriteArguments, RewriteOptions, delta_rewrite

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="THE TRITON KERNELS ARE NOT TESTED: triton is not installed"
)


@dataclass(frozen=True)
class Case:
    """Sizes of one call; `gate` and `target` are the widths of their inputs, by default the context for both."""

    rows: int
    tokens: int
    width: int
    channels: int
    taps: int | None = None
    gate: int | None = None
    target: int | None = None

    def __str__(self) -> str:
        taps = "" if self.taps is None else f"-{self.taps}taps"
        return f"{self.rows}x{self.tokens}x{self.width}x{self.channels}{taps}"


Values = dict[str, Tensor]
"""Tensors by the names of `RewriteArguments` and `ReadingArguments`; without "target_input" it is the context."""


def draw(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> Values:
    """Return normal values; linear layers are scaled to give numbers around 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    n, d, dv = (case.rows, case.tokens), case.width, case.channels
    g = case.gate or d
    u = case.target or g
    values = {
        "state": normal(*n, d, dv),
        "direction": normal(*n, d),
        "context": normal(*n, g),
        "gate_weight": normal(1, g, scale=g**-0.5),
        "gate_bias": normal(1),
        "target_weight": normal(dv, u, scale=u**-0.5),
        "target_bias": normal(dv),
        "weight": normal(d, dv) if case.taps is None else normal(d, dv, case.taps),
        "norm_weight": normal(d),
    }
    if case.target is not None:
        values["target_input"] = normal(*n, u)
    if case.taps is not None:
        values["history"] = normal(case.rows, case.taps - 1, d, dv)
    return values


NORM_EPS = 1e-3
NAMES = ("new_state", "beta", "gate_logit", "target", "readout", "direction_norm", "compressed", "context")


def arguments_of(values: Values) -> RewriteArguments:
    return RewriteArguments(
        *(values.get(name, values["context"]) for name in RewriteArguments._fields),
    )


def reading_of(values: Values) -> ReadingArguments:
    return ReadingArguments(values["weight"], values["norm_weight"], NORM_EPS, values.get("history"))


def rewrite_and_read(values: Values, options: RewriteOptions) -> dict[str, Tensor]:
    rewrite, read = delta_rewrite_compress_norm(arguments_of(values), reading_of(values), options)
    return dict(zip(NAMES, (*rewrite, *read), strict=True))


def only_rewrite(values: Values, options: RewriteOptions) -> dict[str, Tensor]:
    return dict(zip(NAMES, delta_rewrite(arguments_of(values), options), strict=False))


def only_read(values: Values, options: RewriteOptions) -> dict[str, Tensor]:
    return compress_norm(values["state"], reading_of(values))._asdict()


Operator = Callable[[Values, RewriteOptions], dict[str, Tensor]]


def solve(
    operator: Operator, values: Values, options: RewriteOptions, used: Sequence[str] = NAMES
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the operator's outputs, and the gradients of a sum of the used ones with weights of -1, 0 and 1."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    outputs = operator(leaves, options)
    total = torch.zeros((), dtype=torch.float64, device=values["state"].device)
    for index, name in enumerate(used):
        if name in outputs:
            output = outputs[name]
            # Exact in every type, so that all of them are given the same gradient.
            signs = torch.randint(-1, 2, output.shape, generator=torch.Generator().manual_seed(index))
            total = total + (output * signs.to(output)).sum(dtype=torch.float64)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}
    return outputs, gradients


def exactly(values: Values) -> Values:
    """Return the values in float64, for which the plain formula runs whatever is enabled."""
    return {name: value.cpu().double() for name, value in values.items()}


def assert_close(actual: Values, expected: Values, error: float) -> None:
    """Compare tensors by name; `error` is in units of the largest expected value of each, at least 1."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        exact = expected[name].detach()
        assert value.shape == exact.shape
        scale = max(1.0, float(exact.detach().abs().max())) if exact.numel() else 1.0
        worst = float((value.detach().cpu().double() - exact).abs().max()) / scale if exact.numel() else 0.0
        assert worst <= error, f"{name}: {worst:.3g} off, allowed {error:.3g}"
