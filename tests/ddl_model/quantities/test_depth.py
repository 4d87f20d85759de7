"""What all sites together did, against the shortcuts multiplied out as matrices, in float64."""

import math

import pytest
import torch
from torch import Tensor

from ddl_model import Intervention, trace
from ddl_model.quantities.depth import nearest_earlier
from tests.ddl_model.quantities.networks import (
    IDS,
    LANGUAGE,
    Apart,
    close,
    image_classifier,
    language_model,
    pixels,
    take_apart,
)

DELTA = [name for name, config in LANGUAGE.items() if config.residual.rule == "delta"]
PATH = ["survival", "embedding_kept", "path_logdet", "path_sigma", "path_erank"]
CHANGES = {
    "as it is": (),
    "no erasing": (Intervention("drop_erase", sites=("0.mlp", "1.attn"), positions=(1, 4)),),
    "no writing": (Intervention("drop_write", positions=(0, -1)), Intervention("set", value=1.9, sites=("1.mlp",))),
}


def check_path(seen: dict[str, Tensor], apart: Apart, group: int, channels: slice) -> None:
    """Compare one group of value channels: the sites' gates are the same in all of them."""
    width, sites, channel = apart.k.shape[-1], len(apart.k), channels.start

    def of_group(name: str, axes: int) -> Tensor:
        return seen[name] if seen[name].ndim == axes else seen[name][..., group]

    for site in range(sites):
        left = (apart.product(channel, site + 1) @ apart.k[site].unsqueeze(-1)).squeeze(-1)
        close(of_group("survival", 3)[site], left.norm(dim=-1) / apart.k[site].norm(dim=-1))
    product, first = apart.product(channel), apart.states[0][..., channels]
    kept = (product @ first).flatten(-2).norm(dim=-1) / first.flatten(-2).norm(dim=-1)
    close(of_group("embedding_kept", 2), kept)
    determinant = torch.linalg.det(product)
    close(of_group("path_sign", 2) * 10 ** of_group("path_logdet", 2), determinant)
    singular = torch.linalg.svdvals(product)
    # Of the d singular values all but S are 1; where lengths are learned some of the S may be above.
    expected, _ = torch.cat(
        [of_group("path_sigma", 3).movedim(0, -1), torch.ones(2, len(kept[0]), width - sites)], -1
    ).sort(dim=-1, descending=True)
    close(expected, singular)
    for row in range(2):
        for position in range(len(kept[0])):
            sigma = of_group("path_sigma", 3)[:, row, position].tolist()
            entropy = -sum(value / sum(sigma) * math.log(value / sum(sigma)) for value in sigma if value > 0)
            assert float(of_group("path_erank", 2)[row, position]) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", DELTA)
def test_the_path_is_the_product_of_the_matrices(name: str, change: str) -> None:
    model = language_model(name)
    seen = trace(model, IDS, PATH, interventions=CHANGES[change])
    apart = take_apart(model, IDS, *CHANGES[change])
    channels = apart.target.shape[-1]
    groups = model.config.residual.gate_groups
    for group in range(groups):
        check_path(dict(seen), apart, group, slice(group * channels // groups, (group + 1) * channels // groups))


def test_the_path_of_a_patch() -> None:
    model = image_classifier("delta")
    check_path(dict(trace(model, pixels(), PATH)), take_apart(model, pixels()), 0, slice(0, 3))


@pytest.mark.parametrize("name", [name for name in DELTA if name not in ("learned length", "first edition")])
def test_no_path_expands(name: str) -> None:
    for gate in (None, 1.0, 2.0):
        changes = [] if gate is None else [Intervention("set", value=gate)]
        seen = trace(language_model(name), IDS, ["survival", "embedding_kept", "path_sigma"], interventions=changes)
        for values in seen.values():
            assert float(values.min()) >= 0
            assert float(values.max()) <= 1 + 1e-12


def test_a_learned_length_may_expand_and_is_not_refused() -> None:
    model = language_model("learned length")
    for block in model.blocks:
        for step in (block.attn, block.mlp):
            step.residual.normalise.log_scale.data.fill_(0.5)
    seen = trace(model, IDS, ["k_norm", "path_sigma"], interventions=[Intervention("set", value=2.0)])
    assert float(seen["k_norm"].min()) > 1.6
    assert float(seen["path_sigma"].max()) > 2


@pytest.mark.parametrize("name", LANGUAGE)
def test_cosines_between_directions(name: str) -> None:
    model = language_model(name)
    apart, sites = take_apart(model, IDS), 4
    unit = apart.k / apart.k.norm(dim=-1, keepdim=True)
    gated = model.config.residual.rule != "additive"
    seen = trace(model, IDS, ["gram", "k_cos_prev", *(["rewrite_of", "rewrite_cos"] if gated else [])])
    length = apart.k.norm(dim=-1) if gated else torch.ones(sites, 2, 6, dtype=torch.float64)
    cosines = torch.einsum("sbtd,rbtd->srbt", unit, unit)
    assert seen["gram"].shape == (2, 6, 6)
    assert bool(seen["k_cos_prev"][0].isnan().all())
    for later in range(sites):
        for earlier in range(later):
            pair = later * (later - 1) // 2 + earlier
            close(seen["gram"][..., pair], cosines[later, earlier] * length[later] * length[earlier], 1e-8)
        if later:
            close(seen["k_cos_prev"][later], cosines[later, later - 1], 1e-8)
        if later and gated:
            nearest = cosines[later, :later].abs().argmax(0)
            assert torch.equal(seen["rewrite_of"][later], nearest)
            close(seen["rewrite_cos"][later], cosines[later].gather(0, nearest.unsqueeze(0))[0], 1e-8)
    if gated:
        assert bool((seen["rewrite_of"][0] == -1).all())
        assert bool(seen["rewrite_cos"][0].isnan().all())


def test_of_equal_directions_the_earliest_counts_and_opposite_ones_are_parallel() -> None:
    unit = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    site, cosine = nearest_earlier(unit.view(1, 1, 5, 2))
    assert site.flatten().tolist() == [-1, 0, 0, 0, 0]
    assert cosine.flatten()[1:].tolist() == [0.0, -1.0, 1.0, 0.0]
