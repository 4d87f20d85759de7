"""The depth algebra of a token: what all its rewrites, one after another, did to its state.

Shapes: `*n` any leading axes (batch, tokens), `S` sites in the order of their rewrites, `d` width, `dv` value
channels. Site s makes X_{s+1} = X_s + k_s (b_s v_s - beta_s k_s^T X_s)^T: a delta rewrite has b_s = beta_s, a write
without erasing has beta_s = 0. A_s = I - beta_s k_s k_s^T is its shortcut. With the rows k_s in K, v_s in V and
r_s^T = (k_s^T X_s) in R, the Gram matrix G = K K^T, D = diag(beta), B = diag(b) and L = G strictly below its diagonal:

    U = (I + D L)^-1                        unit lower triangular: nothing is divided by beta
    T = U D
    P = A_{S-1} ... A_0 = I - K^T T K       compact WY form of the product
    C = B V - D R = U (B V - D K X_0)       row s is (b_s v_s - beta_s k_s^T X_s)^T
    w_s = A_{S-1} ... A_{s+1} k_s           what later sites leave of k_s: row s of U^T K
    X_S = X_0 + K^T C = P X_0 + sum_s b_s w_s v_s^T

All of it holds for k of any length. Gates in [0, 2] and lengths up to 1 make no A_s, hence no product, expand: the
fractions below lie in [0, 1]. Source: DDL Eq. 2.2; compact WY form of Schreiber and Van Loan (1989), here over depth.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

AnyPath = TypeVar("AnyPath", bound="GramPath")

TOLERANCE = 1e-4
"""How far |k|^2 may exceed its limit and G be asymmetric: above float32 rounding, below what wrong inputs show."""


class LogDeterminant(NamedTuple):
    """A determinant as `sign * 10^log10`; a singular matrix has sign 0 and log10 minus infinity."""

    sign: Float[Tensor, "*n"]
    log10: Float[Tensor, "*n"]


def require_shapes(lead: torch.Size, sizes: dict[str, int], dtype: torch.dtype, **named: tuple[Tensor, str]) -> None:
    """Check tensors, each given with the names of its last axes; an axis not in `sizes` enters it when first met.

    Raises:
        ValueError: a tensor has other axes than named, an empty one, or a dtype that paths are not computed in.
    """
    for name, (tensor, axes) in named.items():
        names, shape = axes.split(), tuple(tensor.shape)
        tail = shape[max(0, len(shape) - len(names)) :]
        expected = (*lead, *(sizes.setdefault(axis, size) for axis, size in zip(names, tail, strict=False)))
        if len(tail) < len(names) or shape != expected or 0 in tail:
            wanted = ", ".join([*map(str, lead), *(f"{axis} = {sizes.get(axis, '?')}" for axis in names)])
            raise ValueError(f"{name} must have shape ({wanted}), no named axis empty, got {shape}")
        if tensor.dtype != dtype or dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the tensors of a path must be all float32 or all float64, but {name} is {tensor.dtype}")


def fraction(part: Float[Tensor, "*n"], whole: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Divide lengths; nothing of nothing is 0."""
    return part / whole.clamp_min(torch.finfo(whole.dtype).tiny)


@dataclass(frozen=True, eq=False, kw_only=True)
class GramPath:
    """What the Gram matrix of a token's directions tells of its path, without the directions and the states.

    `gram` is G = K K^T, `first_readout` K X_0, `width` the d that the directions have. `beta` are the gates that
    erase, `write` those that write where they are others: a network that writes without erasing has `beta` 0.
    `longest` is how long a direction may be: where a network learns their length, products may expand, and what is a
    fraction otherwise may exceed 1.

    A rounding of G stands for directions that turn by its square root: `survival` is good to about 1e-7 in float64
    and 2e-3 in float32. It and `singular_values` are differentiable in G only where the eigenvalues of G are positive
    and distinct (in beta always). `DepthPath` has neither limit.

    Raises:
        ValueError: shapes or dtypes do not fit together, a gate lies outside [0, 2], a direction is longer than
            `longest`, or `gram` is not symmetric.
    """

    gram: Float[Tensor, "*n S S"]
    beta: Float[Tensor, "*n S"]
    target: Float[Tensor, "*n S dv"]
    first_readout: Float[Tensor, "*n S dv"]
    width: int
    write: Float[Tensor, "*n S"] | None = None
    longest: float = 1.0

    def __post_init__(self) -> None:
        """See Raises of the class."""
        tensors = {"gram": (self.gram, "S S"), "beta": (self.beta, "S"), "target": (self.target, "S dv")}
        tensors["first_readout"] = (self.first_readout, "S dv")
        gates = {"beta": self.beta}
        if self.write is not None:
            tensors["write"], gates["write"] = (self.write, "S"), self.write
        require_shapes(self.gram.shape[:-2], {}, self.gram.dtype, **tensors)
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        for name, gate in gates.items():
            allowed = (gate >= 0) & (gate <= 2)  # false for NaN, as are the two below
            if not allowed.all():
                raise ValueError(f"{name} must lie in [0, 2], got {float(gate[~allowed][0])}")
        lengths = (self._square >= 0) & (self._square <= self.longest**2 + TOLERANCE)
        if not lengths.all():
            square = float(self._square[~lengths][0])
            raise ValueError(
                f"directions must be at most {self.longest:g} long, got |k|^2 = {square}: use delta.unit_direction"
            )
        if not ((self.gram - self.gram.mT).abs() <= TOLERANCE * max(1.0, self.longest**2)).all():
            raise ValueError("gram must be symmetric, G[s, r] = k_s^T k_r")

    @property
    def _square(self) -> Float[Tensor, "*n S"]:
        return self.gram.diagonal(dim1=-2, dim2=-1)

    @property
    def _write(self) -> Float[Tensor, "*n S"]:
        """The gates b that write."""
        return self.beta if self.write is None else self.write

    @cached_property
    def _later(self) -> Float[Tensor, "*n S S"]:
        """U = (I + D L)^-1."""
        below = self.beta.unsqueeze(-1) * self.gram.tril(-1)
        eye = torch.eye(below.shape[-1], dtype=below.dtype, device=below.device).expand_as(below)
        inverse: Tensor = torch.linalg.solve_triangular(eye + below, eye, upper=False)
        return inverse

    @cached_property
    def wy_factor(self) -> Float[Tensor, "*n S S"]:
        """T = (I + D L)^-1 D, lower triangular, of P = I - K^T T K."""
        return self._later * self.beta.unsqueeze(-2)

    @cached_property
    def coefficients(self) -> Float[Tensor, "*n S dv"]:
        """C = U (B V - D K X_0): row s is what site s added along k_s, (b_s v_s - beta_s k_s^T X_s)^T."""
        wanted = self._write.unsqueeze(-1) * self.target - self.beta.unsqueeze(-1) * self.first_readout
        return self._later @ wanted

    @property
    def eigenvalues(self) -> Float[Tensor, "*n S"]:
        """Per site, the one eigenvalue 1 - beta |k|^2 of its shortcut that is not 1."""
        return 1.0 - self.beta * self._square

    def log_determinant(self) -> LogDeterminant:
        """Return det P, the product of the eigenvalues, with its logarithm to base 10."""
        return LogDeterminant(self.eigenvalues.sign().prod(-1), self.eigenvalues.abs().log10().sum(-1))

    def survival(self) -> Float[Tensor, "*n S"]:
        """Return which part of each site's write later sites leave: `|w_s| / |k_s|`, 1 kept, 0 overwritten.

        The write b_s k_s v_s^T becomes b_s w_s v_s^T, so this is the ratio of their norms; dividing by |k_s| keeps a
        write along a short direction from reading as an erased one. At k_s = 0 nothing is written: 0.
        """
        rows = self._coordinates()
        left = self._later.mT @ rows
        return fraction(torch.linalg.vector_norm(left, dim=-1), torch.linalg.vector_norm(rows, dim=-1))

    def singular_values(self) -> Float[Tensor, "*n m"]:
        """Return the m = min(S, d) singular values of P that can differ from 1, largest first; the other d - m are 1.

        P is the identity across the span of the directions, so it is enough to decompose its m x m block inside.
        Gradients are right to first order, not beyond.
        """
        rows = self._coordinates()
        # A singular value moves, to first order, as if its vectors stood still: so may the basis. QR's own gradient
        # would be infinite where directions repeat or vanish.
        rows = rows @ torch.linalg.qr(rows.detach().mT).Q
        eye = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
        values: Tensor = torch.linalg.svdvals(eye - rows.mT @ self.wy_factor @ rows)
        return values

    def effective_rank(self) -> Float[Tensor, "*n"]:
        """Return exp(entropy) of `singular_values` over their sum, between 1 and min(S, d); 1 where all are 0."""
        return effective_rank(self.singular_values())

    def with_beta(self: AnyPath, beta: Float[Tensor, "*n S"]) -> AnyPath:
        """Return the path with other gates and frozen directions and targets: the direct effect of the gates.

        They erase, and write unless the path has gates of their own for that. A network run anew with these gates
        would also change the directions, targets and gates of later sites, of this and other tokens (total effect).
        Where only a network's last site is changed, both agree.

        Raises:
            ValueError: as for the class.
        """
        return replace(self, beta=beta)

    def _coordinates(self) -> Float[Tensor, "*n S m"]:
        """Return the directions in some orthonormal basis: rows with the Gram matrix G."""
        length = self._square.sqrt().unsqueeze(-1)
        # Of cosines, not of G itself: else the rounding of long directions would swamp short ones.
        cosines = self.gram / (length * length.mT).clamp_min(torch.finfo(length.dtype).tiny)
        values, vectors = torch.linalg.eigh(cosines)
        most = min(self.width, values.shape[-1])
        rows: Tensor = length * vectors[..., -most:] * values[..., -most:].clamp_min(0.0).sqrt().unsqueeze(-2)
        return rows


def effective_rank(values: Float[Tensor, "*n m"]) -> Float[Tensor, "*n"]:
    """Return exp(entropy) of values over their sum: how many of them count; 1 where all are 0."""
    shares = values / values.sum(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy.exp()
