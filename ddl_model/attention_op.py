"""Attention over a cache as one torch operator, `ddl::cached_attention`.

New keys and values go to their slots, and each new token attends to the slots up to its own. Runtimes have one kernel
for both that works on the cache in place. The operator is composite, as `ddl::delta_rewrite` is.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ddl_model.compiled_formulas import mark, sources
from ddl_model.delta_op import LIBRARY

LIBRARY.define(
    "cached_attention(Tensor query, Tensor key, Tensor value, Tensor keys, Tensor values, Tensor places) "
    "-> (Tensor heads, Tensor keys, Tensor values)"
)


class Attended(NamedTuple):
    """The attended values of each head, and the cache with the new keys and values in it."""

    heads: Float[Tensor, "b t h w"]
    keys: Float[Tensor, "b h s w"]
    values: Float[Tensor, "b h s w"]


def plain_cached_attention(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, places: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the operator by the formulas; the cache that was given stays as it was."""
    slots = torch.arange(keys.shape[2], device=keys.device)
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    index = places[:, None, :, None].expand_as(key)
    keys, values = keys.scatter(2, index, key), values.scatter(2, index, value)
    seen = slots <= places.unsqueeze(-1)
    heads = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=seen.unsqueeze(1))
    return heads.transpose(1, 2), keys, values


LIBRARY.impl("cached_attention", plain_cached_attention, "CompositeImplicitAutograd")
mark(sources(__file__))


def cached_attention(
    query: Float[Tensor, "b t h w"],
    key: Float[Tensor, "b t h w"],
    value: Float[Tensor, "b t h w"],
    keys: Float[Tensor, "b h s w"],
    values: Float[Tensor, "b h s w"],
    places: Int64[Tensor, "b t"],
) -> Attended:
    """Attend to the tokens of a cache and to new ones.

    The new token in column i of row b goes to slot `places[b, i]` and sees the slots up to there. A row's places follow
    each other: padding at its end is seen by none of its tokens, and overwritten by the tokens that come next.
    """
    return Attended(*cast(tuple[Tensor, ...], torch.ops.ddl.cached_attention(query, key, value, keys, values, places)))
