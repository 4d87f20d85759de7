"""The tensors of a decode cache: their names in a graph and their sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddl_model.language_model import LanguageModel
from ddl_model.token_stream import DecodeCache

SLOTS = -1
"""An axis with one place for each token that a row may have; its length is the caller's choice."""


@dataclass(frozen=True)
class CacheTensor:
    """One tensor of a cache: `part` is the field of `DecodeCache`, `name` its key there, `shape` that of one row.

    Keys and values are (heads, SLOTS, head width): a step writes the slots of its tokens and leaves the rest alone, so
    input and output may be one buffer. Histories are (reach, ...): a step makes new ones, a few tokens long, so input
    and output must be two buffers.
    """

    part: str
    name: str
    shape: tuple[int, ...]

    @property
    def past(self) -> str:
        """Name of the graph input."""
        return f"past/{self.part}/{self.name}"

    @property
    def present(self) -> str:
        """Name of the graph output."""
        return f"present/{self.part}/{self.name}"

    @property
    def in_place(self) -> bool:
        """Whether input and output may be one buffer."""
        return SLOTS in self.shape

    def empty(self, rows: int, slots: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the tensor of a cache before the first token."""
        return torch.zeros(rows, *(slots if size == SLOTS else size for size in self.shape), dtype=dtype)


def cache_tensors(model: LanguageModel) -> list[CacheTensor]:
    """Return every tensor of the model's cache: keys, values, then histories, each in the order of the layers."""
    weight = model.embedding.weight
    with torch.no_grad():
        _, cache = model.step(torch.zeros(1, 1, dtype=torch.int64, device=weight.device))
    attention = model.config.attention
    heads = (attention.heads, SLOTS, attention.head_width)
    found = [CacheTensor(part, name, heads) for part in ("keys", "values") for name in getattr(cache, part)]
    return found + [CacheTensor("histories", name, tuple(t.shape[1:])) for name, t in cache.histories.items()]


def to_cache(lengths: Tensor, layout: Sequence[CacheTensor], tensors: Sequence[Tensor]) -> DecodeCache:
    """Return the cache that consists of `tensors`, which the caller has given enough slots."""
    parts: dict[str, dict[str, Tensor]] = {"keys": {}, "values": {}, "histories": {}}
    for place, tensor in zip(layout, tensors, strict=True):
        parts[place.part][place.name] = tensor
    return DecodeCache(lengths, **parts, fixed_slots=True)


def from_cache(cache: DecodeCache, layout: Sequence[CacheTensor]) -> list[Tensor]:
    """Return the tensors of a cache in the order of `layout`."""
    parts: dict[str, Mapping[str, Tensor]] = {"keys": cache.keys, "values": cache.values, "histories": cache.histories}
    return [parts[place.part][place.name] for place in layout]
