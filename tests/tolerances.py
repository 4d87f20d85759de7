"""How closely results must agree, each number with its reason."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed error, in units of each token's largest value (at least 1), and why it is that large."""

    error: float
    reason: str


_SUM = "float32 keeps 24 bits (6e-8); a sum of 768 products in another order, and its normalisation, cost five of them"

TOLERANCES = {
    ("float32", "new_state"): Tolerance(4e-6, _SUM),
    ("float32", "beta"): Tolerance(2e-6, "the error of the logit, at a slope of at most 1/2"),
    ("float32", "gate_logit"): Tolerance(4e-6, _SUM),
    ("float32", "target"): Tolerance(4e-6, _SUM),
    ("float32", "readout"): Tolerance(4e-6, _SUM),
    ("float32", "direction_norm"): Tolerance(1e-6, "a sum of positive terms: nothing cancels"),
    ("float32", "compressed"): Tolerance(8e-6, "the error of the new state, times weights up to 4, over 64 terms"),
    ("float32", "context"): Tolerance(8e-6, "the error of what was compressed, and its norm"),
    ("float32", "next_context"): Tolerance(8e-6, "the error of what was compressed, and its norm"),
}


def assert_agrees(quantity: str, actual: NDArray[np.float32], expected: NDArray[np.floating], token_axes: int) -> None:
    """Compare a quantity of the delta rewrite, of which the first `token_axes` axes are tokens.

    NaN must stand where NaN is expected, and infinities where they are expected.
    """
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    exact, given = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(given[~finite], exact[~finite], err_msg=f"{quantity}: NaN and infinities")
    tolerance = TOLERANCES[str(actual.dtype), quantity]
    of_token = tuple(range(token_axes, expected.ndim))
    scale = np.maximum(1.0, np.where(finite, np.abs(exact), 0.0).max(axis=of_token, initial=0.0, keepdims=True))
    with np.errstate(invalid="ignore"):  # infinity minus infinity, left out
        error = np.where(finite, np.abs(given - exact), 0.0) / scale
    worst = float(error.max(initial=0.0))
    assert worst <= tolerance.error, f"{quantity}: error {worst:.2g}, allowed {tolerance.error:.2g}: {tolerance.reason}"
