"""Everything that the gates API names about a pass, computed in the model itself: the reference for the service.

Shapes: S sites, b rows, t positions, dv channels. Definitions, names and units: catalogue of the gates API. With k the
direction, kappa its length, v the target, p = k^T X, e = p - v.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model import delta
from ddl_model.observe import Observer, guarded_length

PerPosition = Float[Tensor, "s b t"]


def quantities(observer: Observer, direction_eps: float) -> dict[str, Tensor]:
    """Return all quantities of the observed pass by name, each (S, b, t) or (S, b, t, dv).

    Those that follow from the state (`state_norm`, `update_ratio`, `drift`, `state_cos`, `k_cos_prev`, and `e_post`
    as it was really measured) are there if the observer kept states. For write-only networks `eigenvalue`,
    `erase_norm` and `balance` describe no operator of the network and must not be reported.
    """
    seen = list(observer.rewrites.values())
    beta, logit, read, v, raw_norm = (
        torch.stack([getattr(rewrite, name) for rewrite in seen])
        for name in ("beta", "gate_logit", "readout", "target", "direction_norm")
    )
    k_norm = guarded_length(raw_norm, direction_eps)
    step = beta * k_norm
    e_pre = read - v
    erase, write = step * _length(read), step * _length(v)
    found = {
        "beta": beta,
        "beta_logit": logit,
        "proj": read,
        "v": v,
        "k_norm": k_norm,
        "k_raw_norm": raw_norm,
        "eigenvalue": delta.eigenvalue(beta, k_norm),
        "e_pre": e_pre,
        "e_pre_norm": _length(e_pre),
        "erase_norm": erase,
        "write_norm": write,
        "balance": (write - erase) / (write + erase),
        "agreement": torch.nn.functional.cosine_similarity(v, read, dim=-1),
    }
    return found | _of_states(observer, direction_eps, v) if observer.keep_states else found


def _of_states(observer: Observer, direction_eps: float, v: Float[Tensor, "s b t dv"]) -> dict[str, Tensor]:
    sites = list(observer.rewrites)
    before = torch.stack([observer.states[site] for site in sites])
    after = torch.stack([observer.rewrites[site].new_state for site in sites])
    k = torch.stack([delta.unit_direction(observer.directions[site], direction_eps).k for site in sites])
    e_post = delta.readout(after, k) - v
    state_norm, update_norm = _size(before), _size(after - before)
    first = before[:1]
    previous = (k[1:] * k[:-1]).sum(-1)
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
