"""Rotary position embedding, half-split form (Su et al., arXiv 2104.09864)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class RotaryEmbedding:
    """Rotates the first `rotated` of each head's dimensions by angles that grow with the token's position.

    Dimension i is paired with i + rotated / 2; angles are computed in float32. The other dimensions pass.
    """

    def __init__(self, rotated: int, base: float) -> None:
        """Keep the number of rotated dimensions, which is even, and the base of the frequencies."""
        self.rotated = rotated
        self.base = base

    def tables(self, positions: Int64[Tensor, "b t"]) -> tuple[Float[Tensor, "b t 1 r"], Float[Tensor, "b t 1 r"]]:
        """Return cosines and sines of each position for `rotate`."""
        steps = torch.arange(0, self.rotated, 2, device=positions.device, dtype=torch.float32) / max(1, self.rotated)
        angles = positions.to(torch.float32).unsqueeze(-1) * self.base**-steps
        return angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)

    def rotate(
        self, heads: Float[Tensor, "b t h w"], tables: tuple[Float[Tensor, "b t 1 r"], Float[Tensor, "b t 1 r"]]
    ) -> Float[Tensor, "b t h w"]:
        """Return queries or keys rotated to their positions."""
        cos, sin = (table.to(heads.dtype) for table in tables)
        first, second, rest = heads.split(
            [self.rotated // 2, self.rotated // 2, heads.shape[-1] - self.rotated], dim=-1
        )
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)
