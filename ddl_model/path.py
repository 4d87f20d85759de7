"""The depth algebra of a token with its directions and states; formulas and names as in `ddl_model.gram_path`."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model.gram_path import GramPath, LogDeterminant, fraction, require_shapes

__all__ = ["DepthPath", "GramPath", "LogDeterminant", "freeze_norm"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthPath(GramPath):
    """The whole path of a token, from its directions `k` and its first state X_0: adds states to what `GramPath` tells.

    Made by `DepthPath(k=..., beta=..., target=..., first_state=...)`, and `write` or `longest` where they are not as
    usual; the other fields follow from these.

    Raises:
        ValueError: as for `GramPath`; methods raise it too, for arguments that do not fit the path.
    """

    k: Float[Tensor, "*n S d"]
    first_state: Float[Tensor, "*n d dv"]
    gram: Float[Tensor, "*n S S"] = field(init=False, repr=False)
    first_readout: Float[Tensor, "*n S dv"] = field(init=False, repr=False)
    width: int = field(init=False)

    def __post_init__(self) -> None:
        """See Raises of the class."""
        own = {"k": (self.k, "S d"), "target": (self.target, "S dv"), "first_state": (self.first_state, "d dv")}
        require_shapes(self.k.shape[:-2], {}, self.k.dtype, **own)
        object.__setattr__(self, "gram", self.k @ self.k.mT)
        object.__setattr__(self, "first_readout", self.k @ self.first_state)
        object.__setattr__(self, "width", self.k.shape[-1])
        super().__post_init__()

    def _coordinates(self) -> Float[Tensor, "*n S d"]:
        return self.k

    def final_state(self) -> Float[Tensor, "*n d dv"]:
        """Return X_S = X_0 + K^T C."""
        return self.first_state + self.k.mT @ self.coefficients

    def apply_shortcuts(self, state: Float[Tensor, "*n d c"]) -> Float[Tensor, "*n d c"]:
        """Return P X for any number of columns, without building P; a vector is one column."""
        require_shapes(self.k.shape[:-2], {"d": self.width}, self.k.dtype, state=(state, "d c"))
        return state - self.k.mT @ (self.wy_factor @ (self.k @ state))

    def shortcuts_matrix(self) -> Float[Tensor, "*n d d"]:
        """Return P = A_{S-1} ... A_0 as a matrix: d x d numbers per token, where `apply_shortcuts` needs none."""
        eye = torch.eye(self.width, dtype=self.k.dtype, device=self.k.device)
        return eye - self.k.mT @ self.wy_factor @ self.k

    def embedding_kept(self) -> Float[Tensor, "*n"]:
        """Return `|P X_0| / |X_0|` (Frobenius): which part of the first state is left; 0 where X_0 = 0."""
        left, first = self.apply_shortcuts(self.first_state), self.first_state
        return fraction(torch.linalg.vector_norm(left, dim=(-2, -1)), torch.linalg.vector_norm(first, dim=(-2, -1)))

    def decomposition(self) -> Float[Tensor, "*n rows d dv"]:
        """Return the S + 1 parts of X_S: row 0 the surviving P X_0, row s + 1 the surviving write b_s w_s v_s^T."""
        writes = self._survivors.unsqueeze(-1) * self.target.unsqueeze(-2)
        return torch.cat([self.apply_shortcuts(self.first_state).unsqueeze(-3), writes], dim=-3)

    def compressed_parts(self, compressor: Float[Tensor, "*m d dv"]) -> Float[Tensor, "*n rows d"]:
        """Return the rows of `decomposition`, each compressed to a vector: x[i] = sum_j W[i, j] X[i, j].

        S + 1 vectors per token, without the states in between. `compressor` may have leading axes of the path.
        """
        of_first = (self.apply_shortcuts(self.first_state) * compressor).sum(-1)
        writes = self._survivors * (self.target @ compressor.mT)
        return torch.cat([of_first.unsqueeze(-2), writes], dim=-2)

    def logit_contributions(
        self,
        compressor: Float[Tensor, "d dv"],
        norm_weight: Float[Tensor, " d"],
        norm_eps: float,
        unembedding: Float[Tensor, "c d"],
    ) -> Float[Tensor, "*n rows c"]:
        """Return what each row of `decomposition` adds to each logit of this token; the rows sum to the logits.

        The head is linear once its norm is frozen at the scale that it has at X_S: x = sum_j W[:, j] X_S[:, j] with
        W = `compressor`, y = `norm_weight` x / sqrt(mean(x^2) + `norm_eps`), logits = `unembedding` y. A bias of the
        head is no row's and is left out.
        """
        head = {"compressor": (compressor, "d dv"), "norm_weight": (norm_weight, "d")}
        head["unembedding"] = (unembedding, "c d")
        require_shapes(torch.Size(), {"d": self.width, "dv": self.target.shape[-1]}, self.k.dtype, **head)
        return freeze_norm(self.compressed_parts(compressor), norm_weight, norm_eps) @ unembedding.mT

    @property
    def _survivors(self) -> Float[Tensor, "*n S d"]:
        """Rows b_s w_s: what is left of each write's direction, times its gate."""
        return self._write.unsqueeze(-1) * (self._later.mT @ self.k)


def freeze_norm(
    parts: Float[Tensor, "*n rows d"], weight: Float[Tensor, " d"], eps: float
) -> Float[Tensor, "*n rows d"]:
    """Scale the parts of a vector as its RMSNorm scales their sum: the results sum to the normalised vector."""
    mean_square = parts.sum(-2, keepdim=True).square().mean(-1, keepdim=True)
    return parts * weight * torch.rsqrt(mean_square + eps)
