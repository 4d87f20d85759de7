"""What one site did, against the states before and after it."""

import pytest
import torch
from torch import Tensor

from ddl_model import Intervention, trace
from ddl_model.observe import Observer
from ddl_model.quantities import CATALOGUE
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

CHANGES = {
    "as it is": (),
    "no erasing": (Intervention("drop_erase", sites=("0.mlp", "1.attn"), positions=(1, 4)),),
    "no writing": (Intervention("drop_write", positions=(0, -1)), Intervention("scale", value=1.3)),
}


def norm(values: Tensor, dims: int = 1) -> Tensor:
    return values.square().sum(tuple(range(-dims, 0))).sqrt()


def check(seen: dict[str, Tensor], apart: Apart, rule: str) -> None:
    before, after = torch.stack(apart.states[:-1]), torch.stack(apart.states[1:])
    first = before[:1]
    expected = {
        "state_norm": norm(before, 2),
        "update_norm": norm(after - before, 2),
        "update_ratio": norm(after - before, 2) / norm(before, 2),
        "energy_delta": norm(after, 2).square() - norm(before, 2).square(),
        "drift": norm(before - first, 2) / norm(first, 2),
        "state_cos": (before * first).sum((-2, -1)) / (norm(before, 2) * norm(first, 2)),
    }
    if rule == "additive":
        expected["k_raw_norm"] = norm(apart.k)  # the output, as it is
        for name, values in expected.items():
            close(seen[name], values)
        return
    read = torch.einsum("sbtd,sbtdv->sbtv", apart.k, before)
    expected |= {
        "proj": read,
        "v": apart.target,
        "k_norm": norm(apart.k),
        "e_pre": read - apart.target,
        "e_post": torch.einsum("sbtd,sbtdv->sbtv", apart.k, after) - apart.target,
        "e_pre_norm": norm(read - apart.target),
        "e_post_norm": norm(torch.einsum("sbtd,sbtdv->sbtv", apart.k, after) - apart.target),
        "write_norm": norm(apart.k.unsqueeze(-1) * (apart.write * apart.target).unsqueeze(-2), 2),
    }
    if rule == "delta":
        erased = norm(apart.k.unsqueeze(-1) * (apart.erase * read).unsqueeze(-2), 2)
        expected["erase_norm"] = erased
        expected["balance"] = (expected["write_norm"] - erased) / (expected["write_norm"] + erased)
    if apart.target.shape[-1] > 1:
        expected["agreement"] = (read * apart.target).sum(-1) / (norm(read) * norm(apart.target))
    for name, values in expected.items():
        close(seen[name], values, 1e-9)
    steps = {name for name, quantity in CATALOGUE.items() if quantity.family in ("step", "state")}
    others = {"beta", "beta_logit", "k_raw_norm", "eigenvalue"}
    assert steps & set(seen) == set(expected) | (others & set(seen))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LANGUAGE)
def test_quantities_are_what_happened_to_the_state(name: str, change: str) -> None:
    rule = LANGUAGE[name].residual.rule
    changes = () if rule == "additive" else CHANGES[change]
    model = language_model(name)
    check(dict(trace(model, IDS, "all", interventions=changes)), take_apart(model, IDS, *changes), rule)


@pytest.mark.parametrize("rule", ["delta", "write_only", "additive"])
def test_the_same_in_classifiers(rule: str) -> None:
    model = image_classifier(rule)
    check(dict(trace(model, pixels(), "all")), take_apart(model, pixels()), rule)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [name for name, config in LANGUAGE.items() if config.residual.rule == "delta"])
def test_the_eigenvalue_is_that_of_the_shortcut_as_it_was(name: str, change: str) -> None:
    model = language_model(name)
    apart = take_apart(model, IDS, *CHANGES[change])
    found = trace(model, IDS, "eigenvalue", interventions=CHANGES[change])["eigenvalue"]
    found = found if found.ndim == 4 else found.unsqueeze(-1)
    per_group = found.repeat_interleave(apart.erase.shape[-1] // found.shape[-1], dim=-1)
    close(per_group, 1 - apart.erase * apart.k.square().sum(-1, keepdim=True))
    k, state = apart.k[0], apart.states[0]
    left = torch.stack([(apart.shortcut(0, c) @ k.unsqueeze(-1))[..., 0] for c in range(state.shape[-1])], dim=-1)
    close(left, per_group[0].unsqueeze(-2) * k.unsqueeze(-1))


def test_where_nothing_is_written_or_erased_there_is_no_balance() -> None:
    closed = trace(language_model("cc-ec"), IDS, "balance", interventions=[Intervention("set", value=0.0)])
    assert bool(closed["balance"].isnan().all())


def test_half_precision_is_measured_in_single() -> None:
    model = language_model("cc-ec").to(torch.bfloat16)
    seen = trace(model, IDS, "all", targets="next")
    assert all(values.dtype in (torch.float32, torch.int64) for values in seen.values())
    exact = trace(language_model("cc-ec"), IDS, ["state_norm", "survival"])
    for name, values in exact.items():
        torch.testing.assert_close(seen[name].double(), values, atol=0.2, rtol=0.2)
    ids = seen.targets.clamp_min(0)
    rows = seen["logit_contrib"].sum(0)
    close(rows[:, :-1].double(), seen.logits.gather(-1, ids)[:, :-1].double(), 0.1)


@pytest.mark.parametrize("name", ["cc-ec", "scalar state"])
def test_in_bfloat16_the_next_state_is_what_the_gate_says_to_two_percent(name: str) -> None:
    model, observer = language_model(name).to(torch.bfloat16), Observer(keep_states=True)
    with torch.no_grad():
        model(IDS, observer=observer)
    names = ["k_norm", "eigenvalue", "e_pre", "v", "state_norm"]
    seen = trace(model, IDS, names)
    states, eps = [state.float() for state in observer.states.values()], 1e-5
    for site, direction in enumerate(list(observer.directions.values())[:-1]):
        raw = direction.float()
        k = raw / (raw.square().sum(-1, keepdim=True) + eps**2).sqrt()
        after = (k.unsqueeze(-1) * states[site + 1]).sum(-2) - seen["v"][site]
        residual = norm(after - seen["eigenvalue"][site].unsqueeze(-1) * seen["e_pre"][site])
        assert bool((residual <= 0.02 * seen["state_norm"][site]).all()), site
