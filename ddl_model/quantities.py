"""Everything that the gates API names about a pass, computed in the model itself: the reference for the service.

Shapes: S sites, b rows, t positions, g gate groups, dv channels. Definitions, names and units: catalogue of the gates
API. With k the direction, kappa its length, v the target, p = k^T X, e = p - v.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.groups import per_channel
from ddl_model.observe import Observer

PerPosition = Float[Tensor, "s b t"]


def quantities(observer: Observer, direction_eps: float, sites: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return all quantities of the observed pass by name, each (S, b, t) or (S, b, t, dv).

    Where gates are grouped, `beta`, `beta_logit` and `eigenvalue` are (S, b, t, g), one for each run of dv / g value
    channels; lengths such as `erase_norm` are over all channels. `sites` chooses among the sites, which must be alike
    in shape: in a convolutional network, those of one stage. `direction_eps` is the guard of guarded directions.

    Those that follow from the state (`state_norm`, `update_ratio`, `drift`, `state_cos`, `k_cos_prev`, and `e_post`
    as it was really measured) are there if the observer kept states; `drift` and `state_cos` compare with the state
    before the first of the sites. For write-only networks `eigenvalue`, `erase_norm` and `balance` describe no
    operator of the network and must not be reported.

    Raises:
        ValueError: the sites differ in shape.
    """
    sites = list(observer.rewrites) if sites is None else list(sites)
    seen = [observer.rewrites[site] for site in sites]
    if len({rewrite.new_state.shape for rewrite in seen}) > 1:
        shapes = {site: tuple(rewrite.new_state.shape) for site, rewrite in zip(sites, seen, strict=True)}
        raise ValueError(f"the states of the sites differ in shape, choose sites of one shape: {shapes}")
    beta, logit, read, v, raw_norm = (
        torch.stack([getattr(rewrite, name) for rewrite in seen])
        for name in ("beta", "gate_logit", "readout", "target", "direction_norm")
    )
    k_norm = torch.stack(
        [observer.normalise(s, direction_eps).length(observer.rewrites[s].direction_norm) for s in sites]
    )
    step = per_channel(beta, v) * k_norm.unsqueeze(-1)
    e_pre = read - v
    erase, write = _length(step * read), _length(step * v)
    found = {
        "beta": beta,
        "beta_logit": logit,
        "proj": read,
        "v": v,
        "k_norm": k_norm,
        "k_raw_norm": raw_norm,
        "eigenvalue": torch.stack([observer.eigenvalue(site, direction_eps) for site in sites]),
        "e_pre": e_pre,
        "e_pre_norm": _length(e_pre),
        "erase_norm": erase,
        "write_norm": write,
        "balance": (write - erase) / (write + erase),
        "agreement": torch.nn.functional.cosine_similarity(v, read, dim=-1),
    }
    return found | _of_states(observer, direction_eps, sites, v) if observer.keep_states else found


def _of_states(
    observer: Observer, direction_eps: float, sites: list[str], v: Float[Tensor, "s b t dv"]
) -> dict[str, Tensor]:
    before = torch.stack([observer.states[site] for site in sites])
    after = torch.stack([observer.rewrites[site].new_state for site in sites])
    k = torch.stack([observer.normalise(site, direction_eps)(observer.directions[site]).k for site in sites])
    # A cosine: of directions without the length that a site may have learned.
    unit = delta.unit_direction(torch.stack([observer.directions[site] for site in sites]), direction_eps).k
    e_post = delta.readout(after, k) - v
    state_norm, update_norm = _size(before), _size(after - before)
    first = before[:1]
    previous = (unit[1:] * unit[:-1]).sum(-1)
    return {
        "e_post": e_post,
        "e_post_norm": _length(e_post),
        "state_norm": state_norm,
        "update_norm": update_norm,
        "update_ratio": update_norm / state_norm,
        "energy_delta": _size(after).square() - state_norm.square(),
        "drift": _size(before - first) / _size(first),
        "state_cos": (before * first).sum((-2, -1)) / (state_norm * _size(first)),
        "k_cos_prev": torch.cat([torch.full_like(previous[:1], torch.nan), previous]),
    }


def _length(values: Float[Tensor, "s b t dv"]) -> PerPosition:
    length: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return length


def _size(states: Float[Tensor, "s b t d dv"]) -> PerPosition:
    size: Tensor = torch.linalg.vector_norm(states, dim=(-2, -1))
    return size
