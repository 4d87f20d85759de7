"""What all sites together did to a token: cosines between directions, and the product of the shortcuts."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddl_model.gram_path import effective_rank
from ddl_model.path import DepthPath
from ddl_model.quantities.step import Step


class Depth:
    """Collects, site by site, what the depth algebra needs: directions, gates and targets, and the first state."""

    def __init__(self) -> None:
        """Start before the first site."""
        self._k: list[Tensor] = []
        self._unit: list[Tensor] = []
        self._erase: list[Tensor] = []
        self._write: list[Tensor] = []
        self._target: list[Tensor] = []
        self._first: Tensor | None = None

    def add(self, step: Step, *, erases: bool) -> None:
        """Take in one site; without `erases` its shortcut is the identity.

        An addition writes along its output, at a gate of 1, the output's length to every value channel.
        """
        motion = step.moved
        if self._first is None:
            self._first = motion.first.to(motion.k.dtype)
        channels = self._first.shape[-1]
        self._k.append(motion.k)
        self._unit.append(motion.unit)
        if step.gates is None:
            # k is guarded, hence a little short: this length makes k v^T the output to the last digit.
            length = step.raw_norm / torch.linalg.vector_norm(motion.k, dim=-1).clamp_min(torch.finfo().tiny)
            target = length.unsqueeze(-1).expand(*length.shape, channels)
            erase, write = torch.zeros_like(length), torch.ones_like(length)
        else:
            target, erase, write = step.gates.rewrite.target, step.gates.erase, step.gates.write
        self._target.append(target)
        self._write.append(write)
        self._erase.append(erase if erases else torch.zeros_like(write))

    @property
    def directions(self) -> Float[Tensor, "b t S d"]:
        """The directions of all sites, as long as they are."""
        return torch.stack(self._k, dim=-2)

    @property
    def first_state(self) -> Float[Tensor, "b t d dv"]:
        """The state before the first site."""
        assert self._first is not None, "no site was seen"
        return self._first

    @property
    def groups(self) -> int:
        """Into how many groups of value channels, with a gate each, the state is cut; 0 where gates are plain."""
        return self._write[0].shape[-1] if self._write[0].ndim > 2 else 0

    def path(self) -> DepthPath:
        """Return the path of every token, (b, t), or of every token and group of value channels, (b, t, g)."""
        k, target, first = self.directions, torch.stack(self._target, dim=-2), self.first_state
        erase, write = (torch.stack(gates, dim=2) for gates in (self._erase, self._write))
        if self.groups:
            k = k.unsqueeze(2).expand(*k.shape[:2], self.groups, *k.shape[2:])
            target = target.unflatten(-1, (self.groups, -1)).movedim(-2, 2)
            first = first.unflatten(-1, (self.groups, -1)).movedim(-2, 2)
            erase, write = erase.movedim(2, -1), write.movedim(2, -1)
        longest = max(1.0, float(torch.linalg.vector_norm(k.detach(), dim=-1).max())) if k.numel() else 1.0
        return DepthPath(k=k, beta=erase, write=write, target=target.to(k.dtype), first_state=first, longest=longest)

    def written(self) -> tuple[Float[Tensor, "b t S d"], Float[Tensor, "b t S dv"]]:
        """Return direction and target of every write, the target times the gate."""
        target, write = torch.stack(self._target, dim=-2), torch.stack(self._write, dim=2)
        if self.groups:
            return self.directions, write.repeat_interleave(target.shape[-1] // self.groups, dim=-1) * target
        return self.directions, write.unsqueeze(-1) * target

    def quantities(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the named quantities of this family; `k_cos_prev` is not among them, for it needs two sites only."""
        found: dict[str, Tensor] = {}
        if {"rewrite_of", "rewrite_cos"} & set(names):
            found["rewrite_of"], found["rewrite_cos"] = nearest_earlier(torch.stack(self._unit, dim=-2))
        if "gram" in names:
            k = self.directions
            row, column = torch.tril_indices(k.shape[-2], k.shape[-2], offset=-1, device=k.device)
            found["gram"] = (k @ k.mT)[..., row, column]
        if wanted := [name for name in names if name in _FORMULAS]:
            whole = _Whole(self.path())
            found |= {name: _FORMULAS[name](whole) for name in wanted}
        return {name: found[name] for name in names if name in found}


@dataclass(frozen=True, eq=False)
class _Whole:
    """A path, and its singular values, which are decomposed once."""

    path: DepthPath

    @cached_property
    def sigma(self) -> Float[Tensor, "*n m"]:
        """The singular values of the product that can differ from 1."""
        return self.path.singular_values()


_FORMULAS: dict[str, Callable[[_Whole], Tensor]] = {
    "survival": lambda whole: whole.path.survival().movedim(-1, 0),
    "embedding_kept": lambda whole: whole.path.embedding_kept(),
    "path_logdet": lambda whole: whole.path.log_determinant().log10,
    "path_sign": lambda whole: whole.path.log_determinant().sign,
    "path_sigma": lambda whole: whole.sigma.movedim(-1, 0),
    "path_erank": lambda whole: effective_rank(whole.sigma),
}


def nearest_earlier(
    unit: Float[Tensor, "b t S d"],
) -> tuple[Int64[Tensor, "S b t"], Float[Tensor, "S b t"]]:
    """Return the earlier site whose direction is most nearly parallel to each site's, up to sign, and the cosine.

    The first site has none: -1 and NaN. Of equals the earliest is taken.
    """
    gram = unit @ unit.mT
    later = torch.ones_like(gram, dtype=torch.bool).tril(-1)
    site = torch.where(later, gram.abs(), -1.0).argmax(-1)
    cosine = gram.gather(-1, site.unsqueeze(-1)).squeeze(-1)
    site[..., 0] = -1
    cosine = torch.cat([torch.full_like(cosine[..., :1], torch.nan), cosine[..., 1:]], dim=-1)
    return site.movedim(-1, 0), cosine.movedim(-1, 0)
