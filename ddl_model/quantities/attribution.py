"""Which site adds what to a logit: exact, because the path of a token is linear once the final norm is frozen."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddl_model.path import freeze_norm
from ddl_model.quantities.depth import Depth
from ddl_model.quantities.head import Head


def attribution(names: Collection[str], head: Head, depth: Depth, targets: Int64[Tensor, "b p n"]) -> dict[str, Tensor]:
    """Return the named quantities of this family, with one column per target; NaN where there is no target."""
    found: dict[str, Tensor] = {}
    if "logit_contrib" in names:
        found["logit_contrib"] = logit_contributions(head, depth, targets)
    if "readout_alignment" in names:
        found["readout_alignment"] = readout_alignment(head, depth, targets)
    return found


def logit_contributions(head: Head, depth: Depth, targets: Int64[Tensor, "b p n"]) -> Float[Tensor, "rows b t n"]:
    """Return what is left of the embedding (row 0) and of each site's write (row s + 1) adds to the targets' logits.

    The rows of a position sum to the logit. Where the head pools positions, rows and positions together sum to it, less
    the head's bias: each position has its share of the mean.
    """
    path = depth.path()
    dtype = path.k.dtype
    weights = head.compressor.weights(depth.first_state).to(dtype)
    if depth.groups:
        weights = weights.unflatten(-1, (depth.groups, -1)).movedim(-2, 0)
    parts = path.compressed_parts(weights)
    parts = parts.sum(-3) if depth.groups else parts
    eps = head.norm.eps
    assert eps is not None
    normed = freeze_norm(parts, head.norm.weight.to(dtype), eps)
    share = 1.0 / parts.shape[1] if head.pooled else 1.0
    return _masked((normed @ _rows(head, targets, dtype).mT).movedim(-2, 0) * share, targets)


def readout_alignment(head: Head, depth: Depth, targets: Int64[Tensor, "b p n"]) -> Float[Tensor, "S b t n"]:
    """Return the cosine of each write, compressed as the head does it, with the unembedding row of each target.

    The norm's weight is left out. A site that writes nothing has 0.
    """
    k, target = depth.written()
    weights = head.compressor.weights(depth.first_state).to(k.dtype)
    written, rows = _unit(k * (target.to(k.dtype) @ weights.mT)), _unit(_rows(head, targets, k.dtype))
    return _masked((written @ rows.mT).movedim(-2, 0), targets)


def _rows(head: Head, targets: Int64[Tensor, "b p n"], dtype: torch.dtype) -> Float[Tensor, "b p n d"]:
    """Return the row of the head that belongs to each target."""
    return head.weight[targets.clamp_min(0)].to(dtype)


def _masked(values: Float[Tensor, "rows b t n"], targets: Int64[Tensor, "b p n"]) -> Float[Tensor, "rows b t n"]:
    return torch.where(targets < 0, torch.nan, values)


def _unit(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Return vectors of length 1, and 0 for 0, however short they were."""
    largest = vectors.abs().amax(-1, keepdim=True)
    near_one = vectors / torch.where(largest > 0, largest, 1.0)
    return torch.nn.functional.normalize(near_one, dim=-1)
