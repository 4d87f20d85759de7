"""Observation and interventions on real networks: the identities of the gates API hold for what really happened."""

import pytest
import torch
from torch import Tensor

from ddl_model import Intervention, LanguageModel, Observer, measure
from tests.ddl_model.test_language_model import CONFIGS, lively_model

KINDS = ("cc-ec", "tc", "scalar state", "write only")


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return lively_model(CONFIGS[request.param])


@pytest.fixture(scope="module")
def delta_model() -> LanguageModel:
    return lively_model(CONFIGS["cc-ec"])


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 31, (2, 7), generator=torch.Generator().manual_seed(6))


def run(
    model: LanguageModel, ids: Tensor, *interventions: Intervention, keep_states: bool = True
) -> tuple[Tensor, Observer]:
    observer = Observer(interventions, keep_states=keep_states)
    with torch.no_grad():
        return model(ids, observer=observer), observer


def seen(model: LanguageModel, ids: Tensor, *interventions: Intervention) -> dict[str, Tensor]:
    _, observer = run(model, ids, *interventions)
    return measure(observer, model.config.residual)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-9)


def test_what_was_measured_obeys_the_closed_forms(delta_model: LanguageModel, ids: Tensor) -> None:
    q = seen(delta_model, ids)
    assert q["beta"].shape == (4, 2, 7)
    close(q["e_post"], q["eigenvalue"].unsqueeze(-1) * q["e_pre"])
    close(q["update_norm"], q["beta"] * q["k_norm"] * q["e_pre_norm"])
    close(q["eigenvalue"], 1 - q["beta"] * q["k_norm"] ** 2)
    close(q["update_ratio"], q["update_norm"] / q["state_norm"])
    change = q["v"] - q["proj"]
    energy = 2 * q["beta"] * (q["proj"] * change).sum(-1) + (q["beta"] * q["k_norm"]) ** 2 * change.square().sum(-1)
    close(q["energy_delta"], energy)
    close(q["state_norm"][1:].square(), (q["state_norm"].square() + q["energy_delta"])[:-1])
    assert bool((q["drift"][0] == 0).all())
    close(q["state_cos"][0], torch.ones(2, 7, dtype=torch.float64))
    assert bool(q["k_cos_prev"][0].isnan().all())
    assert bool((q["k_cos_prev"][1:].abs() <= 1).all())


def test_states_are_kept_on_demand_only(delta_model: LanguageModel, ids: Tensor) -> None:
    _, observer = run(delta_model, ids, keep_states=False)
    assert not observer.states
    assert "state_norm" not in measure(observer, delta_model.config.residual)


def test_the_model_s_own_gates_change_no_bit(model: LanguageModel, ids: Tensor) -> None:
    logits, observer = run(model, ids)
    own = {site: rewrite.beta for site, rewrite in observer.rewrites.items()}
    patched, _ = run(model, ids, Intervention("patch", betas=own))
    clamped, _ = run(model, ids, Intervention("clamp", low=0.0, high=2.0))
    scaled, _ = run(model, ids, Intervention("scale", value=1.0))
    for changed in (patched, clamped, scaled):
        assert torch.equal(changed, logits)


def test_gate_zero_everywhere_is_the_network_without_blocks(model: LanguageModel, ids: Tensor) -> None:
    logits, observer = run(model, ids, Intervention("set", value=0.0))
    first = observer.states["0.attn"]
    assert all(torch.equal(state, first) for state in observer.states.values())
    assert not torch.equal(logits, run(model, ids)[0])


def test_gate_one_overwrites_and_two_reflects(delta_model: LanguageModel, ids: Tensor) -> None:
    one = seen(delta_model, ids, Intervention("set", value=1.0))
    # The direction is shorter than 1 by its guard: what is left is 1 - |k|^2.
    assert float(one["e_post"].abs().max()) < 1e-6
    two = seen(delta_model, ids, Intervention("set", value=2.0))
    torch.testing.assert_close(two["e_post"], -two["e_pre"], atol=1e-6, rtol=1e-6)


def test_a_change_leaves_what_comes_before_alone(model: LanguageModel, ids: Tensor) -> None:
    before = seen(model, ids)
    after = seen(model, ids, Intervention("set", value=1.9, sites=("1.attn",), positions=(3,)))
    assert torch.equal(after["beta"][:2], before["beta"][:2])
    assert torch.equal(after["state_norm"][:3], before["state_norm"][:3])
    assert torch.equal(after["beta"][:, :, :3], before["beta"][:, :, :3])
    assert bool((after["beta"][2, :, 3] == 1.9).all())
    assert torch.equal(after["beta"][2, :, 4:], before["beta"][2, :, 4:])
    assert not torch.equal(after["state_norm"][3, :, 3], before["state_norm"][3, :, 3])


def test_scale_clamp_and_mean(delta_model: LanguageModel, ids: Tensor) -> None:
    at = {"sites": ("0.attn",)}
    before = seen(delta_model, ids)["beta"][0]
    close(seen(delta_model, ids, Intervention("scale", value=1.5, **at))["beta"][0], (1.5 * before).clamp(max=2.0))
    close(seen(delta_model, ids, Intervention("clamp", low=0.5, high=1.0, **at))["beta"][0], before.clamp(0.5, 1.0))
    mean = seen(delta_model, ids, Intervention("mean", **at))["beta"][0]
    close(mean, before.mean(-1, keepdim=True).expand_as(before))


def test_later_entries_win_where_they_meet(delta_model: LanguageModel, ids: Tensor) -> None:
    first, second = Intervention("set", value=0.3), Intervention("set", value=1.7, positions=(-1,))
    beta = seen(delta_model, ids, first, second)["beta"]
    assert bool((beta[..., :-1] == 0.3).all())
    assert bool((beta[..., -1] == 1.7).all())


def test_dropping_erase_and_write_is_the_formula(model: LanguageModel, ids: Tensor) -> None:
    site, erases = "0.mlp", model.config.residual.rule == "delta"
    for operation in ("drop_erase", "drop_write"):
        _, observer = run(model, ids, Intervention(operation, sites=(site,), positions=(2, -1)))
        rewrite, state, raw = observer.rewrites[site], observer.states[site], observer.directions[site]
        k = raw / (raw.square().sum(-1, keepdim=True) + model.config.residual.direction_eps**2).sqrt()
        dropped = torch.zeros(7, dtype=torch.float64)
        dropped[[2, -1]] = 1.0
        write, erase = torch.ones(7, dtype=torch.float64), torch.full((7,), float(erases), dtype=torch.float64)
        if operation == "drop_erase":
            erase = erase * (1 - dropped)
        else:
            write = write - dropped
        step = write[:, None] * rewrite.target - erase[:, None] * torch.einsum("btd,btdv->btv", k, state)
        expected = state + rewrite.beta[..., None, None] * k.unsqueeze(-1) * step.unsqueeze(-2)
        close(rewrite.new_state, expected)


def test_dropping_both_keeps_the_state(delta_model: LanguageModel, ids: Tensor) -> None:
    _, observer = run(delta_model, ids, Intervention("drop_erase"), Intervention("drop_write"))
    assert all(torch.equal(rewrite.new_state, observer.states[s]) for s, rewrite in observer.rewrites.items())


def test_a_patch_moves_gates_from_one_input_to_another(delta_model: LanguageModel, ids: Tensor) -> None:
    _, source = run(delta_model, ids[:1])
    gates = {"1.mlp": source.rewrites["1.mlp"].beta[0]}
    patched = seen(delta_model, ids[1:], Intervention("patch", betas=gates))
    assert torch.equal(patched["beta"][3, 0], gates["1.mlp"])
    assert torch.equal(patched["beta"][:3], seen(delta_model, ids[1:])["beta"][:3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operation": "set", "value": 2.1}, r"set: value must lie in \[0, 2\], got 2.1"),
        ({"operation": "scale", "value": -1.0}, "scale: value must be at least 0"),
        ({"operation": "clamp", "low": 1.0, "high": 0.5}, "clamp: need 0 <= low <= high <= 2, got 1.0 and 0.5"),
        ({"operation": "patch"}, "patch: give betas"),
        ({"operation": "drop"}, "operation must be one of set, scale, .*drop_erase, drop_write, got 'drop'"),
    ],
)
def test_values_that_no_gate_takes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Intervention(**fields)  # type: ignore[arg-type]


def test_a_position_outside_the_row_is_refused(delta_model: LanguageModel, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="position 7 is outside the 7 positions"):
        run(delta_model, ids, Intervention("set", value=1.0, positions=(7,)))
