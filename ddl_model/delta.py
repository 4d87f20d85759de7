"""The delta rewrite and its algebra, in plain torch: the reference that every kernel is held to.

Shapes: `*n` any leading axes (batch, tokens), `d` width, `dv` value channels. Equation numbers are those of
"Deep Delta Learning" (arXiv 2601.00417, edition of July 2026). Half-precision inputs are summed in float32 and
float64 stays float64, so the same lines serve as the exact reference.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Regime = Literal["skip", "partial", "match", "over"]

REGIME_EDGES = (0.25, 0.75, 1.25)
REGIME_NAMES: tuple[Regime, ...] = ("skip", "partial", "match", "over")


class Direction(NamedTuple):
    """A direction ready for the rewrite, and the length that it had before normalising."""

    k: Float[Tensor, "*n d"]
    raw_norm: Float[Tensor, "*n"]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a reduction over `dtype` values is carried out."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unit_direction(raw: Float[Tensor, "*n d"], eps: float) -> Direction:
    """Normalise `raw` to `k = raw / sqrt(|raw|^2 + eps^2)`.

    The guard keeps k finite at raw = 0, where k = 0 and the rewrite changes nothing. It makes |k| slightly less
    than 1: see `eigenvalue`. Above |raw| of about 1.8e19 the float32 square overflows and k is 0 as well.
    Guard as in the authors' plain implementation.
    """
    raw = raw.to(sum_dtype(raw.dtype))
    square = (raw * raw).sum(-1)
    k = raw / torch.sqrt(square + eps * eps).unsqueeze(-1)
    return Direction(k, torch.sqrt(square))


def exact_direction(raw: Float[Tensor, "*n d"]) -> Direction:
    """Normalise `raw` to `k = raw / |raw|`, of length 1 whatever finite length above 0 `raw` has.

    At raw = 0, where no direction is given, k = 0 and so is its gradient: the rewrite changes nothing. Elsewhere the
    gradient grows as 1 / |raw|, which the guard of `unit_direction` prevents.
    """
    raw = raw.to(sum_dtype(raw.dtype))
    # k does not depend on the length, so a length near 1 may be made first: squares neither overflow nor vanish.
    largest = raw.detach().abs().amax(-1, keepdim=True)
    somewhere = largest > 0
    near_one = raw / torch.where(somewhere, largest, 1.0)
    length = torch.linalg.vector_norm(near_one, dim=-1, keepdim=True)
    k = torch.where(somewhere, near_one / torch.where(somewhere, length, 1.0), 0.0)
    return Direction(k, (largest * length).squeeze(-1))


def gate_from_logit(logit: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Map a logit to the gate `beta = 2 sigmoid(logit)` in [0, 2]; float32 reaches both ends."""
    return 2.0 * torch.sigmoid(logit)


def logit_from_gate(beta: float) -> float:
    """Return the logit at which the gate opens to `beta`.

    Raises:
        ValueError: `beta` is not strictly between 0 and 2.
    """
    if not 0.0 < beta < 2.0:
        raise ValueError(f"beta must lie strictly between 0 and 2, got {beta}")
    # On the CPU even where the default device holds no numbers (meta), on which transformers builds models.
    return float(torch.logit(torch.tensor(beta / 2.0, dtype=torch.float64, device="cpu")))


def readout(state: Float[Tensor, "*n d dv"], k: Float[Tensor, "*n d"]) -> Float[Tensor, "*n dv"]:
    """Read the state along a direction: `k^T X`."""
    return (k.unsqueeze(-2) @ state).squeeze(-2)


def discrepancy(
    state: Float[Tensor, "*n d dv"], k: Float[Tensor, "*n d"], v: Float[Tensor, "*n dv"]
) -> Float[Tensor, "*n dv"]:
    """Return how far the readout is from its target: `v - k^T X` (the paper's error e is its negative)."""
    return v - readout(state, k)


def rewrite(
    state: Float[Tensor, "*n d dv"],
    k: Float[Tensor, "*n d"],
    v: Float[Tensor, "*n dv"],
    beta: Float[Tensor, "*n"],
) -> Float[Tensor, "*n d dv"]:
    """Move the readout of `state` along `k` towards `v` by the fraction `beta`: `X + beta k (v - k^T X)^T`.

    Sums in float32, returns the dtype of `state`. At beta = 0 nothing changes; with unit k the readout is v at
    beta = 1 and its mirror image about v at beta = 2. Source: DDL Eq. 2.2, exact overwrite Eq. 2.3.
    """
    dtype = sum_dtype(state.dtype)
    exact = state.to(dtype)
    k = k.to(dtype)
    step = beta.to(dtype).unsqueeze(-1) * discrepancy(exact, k, v.to(dtype))
    return (exact + k.unsqueeze(-1) * step.unsqueeze(-2)).to(state.dtype)


def write(
    state: Float[Tensor, "*n d dv"],
    k: Float[Tensor, "*n d"],
    v: Float[Tensor, "*n dv"],
    beta: Float[Tensor, "*n"],
) -> Float[Tensor, "*n d dv"]:
    """Write without erasing: `X + beta k v^T`. The shortcut is the identity. Source: DDL section 5, control."""
    dtype = sum_dtype(state.dtype)
    step = beta.to(dtype).unsqueeze(-1) * v.to(dtype)
    return (state.to(dtype) + k.to(dtype).unsqueeze(-1) * step.unsqueeze(-2)).to(state.dtype)


def apply_shortcut(
    state: Float[Tensor, "*n d dv"], k: Float[Tensor, "*n d"], beta: Float[Tensor, "*n"]
) -> Float[Tensor, "*n d dv"]:
    """Apply the shortcut operator `A = I - beta k k^T` without building it. Source: DDL Eq. 2.1."""
    return rewrite(state, k, torch.zeros_like(state[..., 0, :]), beta)


def shortcut_matrix(k: Float[Tensor, "*n d"], beta: Float[Tensor, "*n"]) -> Float[Tensor, "*n d d"]:
    """Return the shortcut operator as a matrix, `A = I - beta k k^T`. Source: DDL Eq. 2.1."""
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    return eye - beta[..., None, None] * k.unsqueeze(-1) * k.unsqueeze(-2)


def eigenvalue(beta: Float[Tensor, "*n"], k_norm: Float[Tensor, "*n"] | None = None) -> Float[Tensor, "*n"]:
    """Return the one eigenvalue of A that is not 1: `1 - beta |k|^2`, with |k| = 1 where `k_norm` is not given.

    It is the factor by which one rewrite multiplies the discrepancy (DDL Eq. 2.4).
    """
    return 1.0 - beta if k_norm is None else 1.0 - beta * k_norm * k_norm


def spectrum(k: Float[Tensor, "*n d"], beta: Float[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
    """Return the d eigenvalues of A: d - 1 ones, then `1 - beta |k|^2`. Source: DDL Proposition 2.1."""
    values = torch.ones_like(k)
    values[..., -1] = eigenvalue(beta, torch.linalg.vector_norm(k, dim=-1))
    return values


def determinant(beta: Float[Tensor, "*n"], k_norm: Float[Tensor, "*n"] | None = None) -> Float[Tensor, "*n"]:
    """Return det A, which equals `eigenvalue`: its sign is that of the orientation of space. Source: DDL Prop. 2.1."""
    return eigenvalue(beta, k_norm)


def regime(beta: float) -> Regime:
    """Name what a gate does: skip (about 0), partial, match (about 1: overwrite), over (towards 2: reflect).

    Raises:
        ValueError: `beta` lies outside [0, 2]. Source: DDL section 2.3; edges as in `REGIME_EDGES`.
    """
    if not 0.0 <= beta <= 2.0:
        raise ValueError(f"beta must lie in [0, 2], got {beta}")
    return REGIME_NAMES[sum(beta >= edge for edge in REGIME_EDGES)]
