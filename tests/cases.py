"""Shapes and values of the delta rewrite, once for the tests and for the benchmarks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, NDArray[np.float32]]

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """The shape of a state: leading axes, width, value channels."""

    leading: tuple[int, ...]
    width: int
    value_channels: int

    def __str__(self) -> str:
        return "x".join(str(size) for size in (*self.leading, self.width, self.value_channels))


CHANNELS = (
    # Each has its own code path or strip pattern; 33 and 100 leave rows over in every vector width.
    *(Shape((3,), 33, channels) for channels in range(1, 10)),
    *(Shape((2,), 100, channels) for channels in range(1, 10)),
    Shape((2,), 33, 64),
    Shape((2,), 5, 301),
)
TOKENS = (
    Shape((0,), 64, 4),
    Shape((1,), 64, 4),
    Shape((65,), 64, 4),  # an odd number
    Shape((700,), 100, 4),  # several chunks of the thread pool
    Shape((700,), 100, 3),
)
WIDTHS = (
    Shape((3,), 1, 1),
    Shape((3,), 7, 2),
    Shape((3,), 64, 8),
    Shape((3,), 768, 1),
    Shape((3,), 768, 4),
)
LEADING_AXES = (
    Shape((), 16, 4),
    Shape((2, 5), 16, 4),
    Shape((2, 0), 16, 4),
    Shape((2, 3, 5), 16, 1),
)
SHAPES = CHANNELS + TOKENS + WIDTHS

TOKEN_AXES = (
    # Rows and tokens: shorter than the reach, longer than a chunk of the thread pool, none at all.
    *(Shape((2, 5), 33, channels) for channels in range(1, 9)),
    Shape((1, 1), 16, 4),
    Shape((3, 2), 7, 2),
    Shape((2, 400), 100, 4),
    Shape((1, 300), 100, 3),
    Shape((2, 0), 16, 4),
)

BENCH_WIDTH = 768
BENCH_CHANNELS = (1, 4)
BENCH_TOKENS = (1, 16, 256, 4096)


def make_inputs(shape: Shape, seed: int = 0) -> Inputs:
    """Return normal inputs of the op, in its order; the linear maps are scaled to give values around 1."""
    generator = np.random.default_rng(seed)

    def normal(*sizes: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (generator.standard_normal(sizes) * scale).astype(np.float32)

    width, channels = shape.width, shape.value_channels
    return {
        "state": normal(*shape.leading, width, channels),
        "direction": normal(*shape.leading, width),
        "context": normal(*shape.leading, width),
        "target_input": normal(*shape.leading, width),
        "gate_weight": normal(1, width, scale=width**-0.5),
        "gate_bias": normal(1),
        "target_weight": normal(channels, width, scale=width**-0.5),
        "target_bias": normal(channels),
    }


def reading_inputs(shape: Shape, taps: int | None = None, seed: int = 1) -> Inputs:
    """Return weights that read a state: over value channels, or with `taps` over channels and tokens, with a history.

    The leading axes of a shape that is read over tokens are rows and tokens.
    """
    generator = np.random.default_rng(seed)

    def normal(*sizes: int) -> NDArray[np.float32]:
        return generator.standard_normal(sizes).astype(np.float32)

    width, channels = shape.width, shape.value_channels
    inputs = {"norm_weight": normal(width)}
    if taps is None:
        return {"weight": normal(width, channels), **inputs}
    return {
        "history": normal(shape.leading[0], taps - 1, width, channels),
        "weight": normal(width, channels, taps),
        **inputs,
    }


def _scale_token(name: str, factor: float) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[name][1] *= np.float32(factor)

    return change


def _poison_token(name: str, value: float) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[name][1].reshape(-1)[5] = value

    return change


def _bias_gate(value: float) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs["gate_bias"][0] = value

    return change


EXTREME_VALUES: dict[str, Callable[[Inputs], None]] = {
    "zero direction": _scale_token("direction", 0.0),
    "tiny direction": _scale_token("direction", 1e-20),
    "huge direction": _scale_token("direction", 1e16),
    "huge state": _scale_token("state", 1e30),
    "open gate": _bias_gate(1e4),
    "closed gate": _bias_gate(-1e4),
    "NaN in state": _poison_token("state", np.nan),
    "NaN in direction": _poison_token("direction", np.nan),
    "NaN in context": _poison_token("context", np.nan),
    "NaN in target input": _poison_token("target_input", np.nan),
    "infinite state": _poison_token("state", np.inf),
    "infinite direction": _poison_token("direction", np.inf),
    "infinite target input": _poison_token("target_input", -np.inf),
}
"""Changes to the inputs of at least two tokens, most to the token 1 alone: the others must not notice."""

FLOAT32_OVERFLOW: dict[str, Callable[[Inputs], None]] = {
    "overflowing direction": _scale_token("direction", 1e25),
}
"""Changes that float64 survives and float32 does not: only bodies in float32 agree on them."""
