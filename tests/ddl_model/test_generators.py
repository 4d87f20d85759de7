"""Generators: what each normalisation does to the spectrum, gates per group, directions from the state."""

import math
from collections.abc import Callable
from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from ddl_model import (
    ConfigError,
    ImageClassifier,
    ImageClassifierConfig,
    Intervention,
    LanguageModel,
    LanguageModelConfig,
    Observer,
    ResidualConfig,
    StateConfig,
    delta,
    first_edition,
    measure,
)
from ddl_model.generators import (
    AttentionDirection,
    Normalise,
    OutputDirection,
    PooledDirection,
    ScaledNormalise,
    make_normalise,
)
from ddl_model.groups import by_group, per_channel
from ddl_model.residual import DeltaResidual, WriteOnlyResidual
from tests.ddl_model.steps import rewritten
from tests.ddl_model.test_language_model import BASE, lively_model
from tests.model_fixtures import lively

GROUPED = ResidualConfig(gate="grouped", gate_groups=3)
VARIANTS = {
    "grouped": GROUPED,
    "exact": ResidualConfig(direction_norm="exact"),
    "learned scale": ResidualConfig(direction_norm="learned_scale", direction_scale_init=1.3),
    "grouped, learned scale, squashed": replace(
        GROUPED, direction_norm="learned_scale", direction_scale_init=0.6, target_map="scaled_sigmoid"
    ),
    "grouped, write only, exact": replace(GROUPED, rule="write_only", direction_norm="exact"),
    "first edition": replace(first_edition(), direction_hidden_width=5, gate_hidden_width=5),
    "first edition, attention, grouped": replace(
        first_edition(), direction="attention_pooled", gate="grouped", gate_groups=3, direction_norm="exact"
    ),
    "constant target, exact": ResidualConfig(direction_norm="exact", target_map="constant"),
}
SPLITS = ("grouped", "grouped, write only, exact", "first edition, attention, grouped")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def lively_residual(config: ResidualConfig, width: int = 6, channels: int = 6) -> DeltaResidual:
    """Return a residual in float64 whose gates differ from token to token and group to group."""
    kind = DeltaResidual if config.rule == "delta" else WriteOnlyResidual
    residual = kind(width, config, channels, "0.attn").double()
    for number, parameter in enumerate(residual.parameters()):
        parameter.data += 0.7 * random(*parameter.shape, seed=number)
    return residual


def run_residual(residual: DeltaResidual, observer: Observer | None = None, tokens: int = 4) -> Tensor:
    state = random(2, tokens, 6, 6, seed=10)
    output, context, compressed = random(3, 2, tokens, 6, seed=11)
    next_state: Tensor = rewritten(residual, state, output, context, compressed, observer)
    return next_state


def normalise_for(norm: str, eps: float = 1e-5, scale: float = 1.4) -> Normalise:
    config = ResidualConfig(direction_norm=norm, direction_eps=eps, direction_scale_init=scale)
    normalise = make_normalise(config).double()
    if isinstance(normalise, ScaledNormalise):
        torch.testing.assert_close(float(normalise.scale.detach()), scale)
        normalise.log_scale.data.fill_(math.log(scale))  # in float64
    return normalise


@pytest.mark.parametrize(("norm", "length"), [("guarded", 3 / 3.01**0.5 / 3**0.5), ("exact", 1.0)])
def test_the_length_of_k(norm: str, length: float) -> None:
    raw = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    k, raw_norm = normalise_for(norm, eps=0.1)(raw)
    close(k.norm(), torch.tensor(length, dtype=torch.float64))
    close(raw_norm, torch.tensor(3.0, dtype=torch.float64).sqrt())
    close(k / k.norm(), raw / raw.norm())


def test_the_learned_length_multiplies_the_guarded_direction_and_is_learned() -> None:
    normalise, raw = normalise_for("learned_scale", eps=0.3, scale=1.4), random(5, 4)
    k = normalise(raw).k
    close(k, 1.4 * delta.unit_direction(raw, 0.3).k)
    k.square().sum().backward()
    assert [name for name, _ in normalise.named_parameters()] == ["log_scale"]
    # d/d log s of s^2 |u|^2 is twice itself.
    close(normalise.log_scale.grad, 2 * k.detach().square().sum())


@pytest.mark.parametrize("norm", ["guarded", "exact", "learned_scale"])
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0, 1.7, 2.0])
def test_spectrum_and_determinant_are_those_that_the_length_of_k_makes(norm: str, beta: float) -> None:
    normalise, raw = normalise_for(norm, eps=0.4), random(3, 5)
    k, raw_norm = normalise(raw)
    gate = torch.full((3,), beta, dtype=torch.float64)
    last = delta.eigenvalue(gate, normalise.length(raw_norm))
    matrix = delta.shortcut_matrix(k, gate)
    ones = torch.ones(3, 4, dtype=torch.float64)
    close(torch.linalg.eigvalsh(matrix), torch.cat([ones, last[:, None]], -1).sort(-1).values)
    close(torch.linalg.det(matrix), last)
    square = {"guarded": raw_norm**2 / (raw_norm**2 + 0.16), "exact": torch.ones(3, dtype=torch.float64)}
    square["learned_scale"] = 1.4**2 * square["guarded"]
    close(last, 1 - beta * square[norm])


def test_only_a_learned_length_can_throw_the_readout_further_away() -> None:
    """Reflection keeps the energy of an exact direction, loses some behind the guard, and gains by s^2 > 1."""
    raw, state = random(4, 5), random(4, 5, 3, seed=1)
    two, zero = torch.full((4,), 2.0, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    before = state.square().sum((-2, -1))
    growth = {}
    for norm in ("guarded", "exact", "learned_scale"):
        k = normalise_for(norm, eps=0.4)(raw).k
        after = delta.rewrite(state, k, zero, two)
        growth[norm] = after.square().sum((-2, -1)) - before
        inside = delta.readout(state, k / k.norm(dim=-1, keepdim=True)).square().sum(-1)
        close(growth[norm], (delta.eigenvalue(two, k.norm(dim=-1)).square() - 1) * inside)
    assert bool((growth["guarded"] < 0).all())
    close(growth["exact"], torch.zeros(4, dtype=torch.float64))
    assert bool((growth["learned_scale"] > 0).all())


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_exact_directions_have_length_one_at_every_float32_size_and_overwrite(size: float) -> None:
    raw, state, v = (random(*shape, seed=2).float() for shape in ((4, 5), (4, 5, 3), (4, 3)))
    k, raw_norm = delta.exact_direction(raw * size)
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(raw_norm, raw.norm(dim=-1) * size)
    after = delta.rewrite(state, k, v, torch.ones(4))
    torch.testing.assert_close(delta.readout(after, k), v, atol=1e-6, rtol=1e-6)


def test_no_direction_changes_nothing_and_has_no_gradient() -> None:
    raw = torch.zeros(2, 3, requires_grad=True)
    direction = delta.exact_direction(raw)
    assert not direction.k.any()
    assert not direction.raw_norm.any()
    (direction.k.sum() + direction.raw_norm.sum()).backward()
    assert raw.grad is not None
    assert not raw.grad.any()
    assert normalise_for("exact").length(direction.raw_norm).tolist() == [0.0, 0.0]


def test_gradients_of_the_exact_direction_are_those_of_the_formula() -> None:
    assert torch.autograd.gradcheck(lambda raw: tuple(delta.exact_direction(raw)), random(3, 4).requires_grad_())


@pytest.mark.parametrize("formula", [delta.rewrite, delta.write])
def test_a_grouped_gate_is_a_rewrite_of_each_group_by_itself(formula: Callable[..., Tensor]) -> None:
    state, k, v = random(2, 4, 5, 6), random(2, 4, 5, seed=1), random(2, 4, 6, seed=2)
    beta = 2 * torch.sigmoid(random(2, 4, 3, seed=3))
    apart = [formula(state[..., 2 * g : 2 * g + 2], k, v[..., 2 * g : 2 * g + 2], beta[..., g]) for g in range(3)]
    close(by_group(formula, state, k, v, beta), torch.cat(apart, -1))
    one = beta[..., :1]
    close(by_group(formula, state, k, v, one), formula(state, k, v, one.squeeze(-1)))
    assert per_channel(torch.tensor([[1, 2, 3]]), torch.zeros(1, 6)).tolist() == [[1, 1, 2, 2, 3, 3]]
    assert per_channel(torch.tensor([4]), torch.zeros(1, 6)).tolist() == [[4]]


@pytest.mark.parametrize("rule", ["delta", "write_only"])
def test_one_group_is_the_linear_gate(rule: str) -> None:
    linear = lively_residual(ResidualConfig(rule=rule))
    grouped = lively_residual(ResidualConfig(rule=rule, gate="grouped"))
    grouped.load_state_dict(linear.state_dict())
    assert (linear.fused, grouped.fused) == (True, False)
    first, second = Observer(), Observer()
    close(run_residual(grouped, first), run_residual(linear, second))
    seen, expected = first.rewrites["0.attn"], second.rewrites["0.attn"]
    for name in expected._fields:
        close(getattr(seen, name), getattr(expected, name).view_as(getattr(seen, name)))


@pytest.mark.parametrize("norm", ["exact", "learned_scale"])
def test_plain_torch_and_the_operator_agree_where_both_can(norm: str) -> None:
    """A learned length of 1 is the guarded direction; exact is the guard's limit."""
    changed = ResidualConfig(direction_norm=norm, target_map="scaled_sigmoid", gate="two_layer", gate_hidden_width=3)
    residual = lively_residual(replace(changed, direction_norm="guarded", direction_eps=1e-9))
    other = lively_residual(changed)
    other.load_state_dict(residual.state_dict(), strict=False)
    if isinstance(other.normalise, ScaledNormalise):
        other.normalise.log_scale.data.zero_()
    assert (residual.fused, other.fused) == (True, False)
    close(run_residual(other), run_residual(residual), 1e-8)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_gates_of_zero_change_nothing_and_every_parameter_has_a_gradient(config: ResidualConfig) -> None:
    residual, observer = lively_residual(config), Observer([Intervention("set", value=0.0)])
    assert torch.equal(run_residual(residual, observer), random(2, 4, 6, 6, seed=10))
    run_residual(residual).square().sum().backward()
    for name, parameter in residual.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_gate_starts_where_the_config_says(config: ResidualConfig) -> None:
    residual, observer = DeltaResidual(6, replace(config, gate_init=0.4), 6, "0.attn"), Observer()
    zero = torch.zeros(1, 1, 6)
    rewritten(residual, torch.zeros(1, 1, 6, 6), zero, zero, zero, observer)
    beta = observer.rewrites["0.attn"].beta
    assert beta.shape == ((1, 1, 3) if config.gate == "grouped" else (1, 1))
    torch.testing.assert_close(beta, torch.full_like(beta, 0.4))


def test_pooled_directions_are_the_formula_of_the_first_edition() -> None:
    state = random(2, 3, 4, 5)
    generator = PooledDirection(4, 7).double()
    first, _, last = generator.mlp
    pooled = state.mean(-1)
    pooled = pooled / (pooled.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = last(nn.functional.gelu(pooled @ first.weight.T + first.bias))
    close(generator(state, random(2, 3, 4, seed=9)), expected)
    with pytest.raises(ValueError, match="direction 'output' needs a sublayer's output"):
        OutputDirection()(state)


def test_attention_pooling_weighs_value_channels_by_what_they_hold() -> None:
    state = random(2, 3, 4, 5)
    generator = AttentionDirection(4, 7).double()
    columns = state.mT / (state.mT.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    scores = torch.einsum("btvd,d->btv", columns, generator.query)
    close(generator.pool(state), torch.einsum("btv,btdv->btd", scores.exp() / scores.exp().sum(-1, True), state))
    close(generator(state), generator(state[..., torch.tensor([3, 1, 0, 4, 2])]))
    generator.query.data.zero_()
    close(generator.pool(state), state.mean(-1))


def test_the_config_s_word_names_the_generator() -> None:
    kinds = {"output": OutputDirection, "pooled_mlp": PooledDirection, "attention_pooled": AttentionDirection}
    for word, kind in kinds.items():
        config = ResidualConfig(direction=word, target_input="output", direction_hidden_width=3)
        residual = DeltaResidual(6, config, 6, "0.attn")
        assert type(residual.direction) is kind
        shapes = [tuple(parameter.shape) for parameter in residual.direction.parameters() if parameter.ndim == 2]
        assert shapes == ([] if word == "output" else [(3, 6), (6, 3)])


def test_the_output_is_the_target_of_a_pooled_direction() -> None:
    residual, observer = lively_residual(first_edition()), Observer()
    run_residual(residual, observer)
    output = random(3, 2, 4, 6, seed=11)[0]
    close(observer.rewrites["0.attn"].target, residual.target(output))


# In whole networks


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_language_models_decode_as_they_run_whole(config: ResidualConfig) -> None:
    """Every generator looks at its own token alone: prefill and steps give the numbers of the full pass."""
    state = replace(BASE.state, compress="token", expand="convolution")
    model = lively_model(replace(BASE, residual=config, state=state))
    ids = torch.randint(0, 31, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(ids)
        first, cache = model.step(ids[:, :4])
        second, _ = model.step(ids[:, 4:], cache)
    close(torch.cat([first, second], 1), whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_measured_obeys_the_closed_forms(name: str) -> None:
    model, config = lively_model(replace(BASE, residual=VARIANTS[name])), VARIANTS[name]
    observer = Observer(keep_states=True)
    with torch.no_grad():
        model(torch.randint(0, 31, (2, 5), generator=torch.Generator().manual_seed(2)), observer=observer)
        q = measure(observer, config)
    groups = (3,) if config.gate == "grouped" else ()
    erases = config.rule == "delta"
    assert q["beta"].shape == q["beta_logit"].shape == (4, 2, 5, *groups)
    assert q["write_norm"].shape == q["k_norm"].shape == q["k_cos_prev"].shape == (4, 2, 5)
    close(q["beta"], 2 * torch.sigmoid(q["beta_logit"]))
    beta, square = per_channel(q["beta"], q["v"]), q["k_norm"].square().unsqueeze(-1)
    close(q["e_post"], q["proj"] + beta * square * (q["v"] - q["proj"] * erases) - q["v"])
    assert ("eigenvalue" in q) == erases
    if erases:
        eigenvalue = per_channel(q["eigenvalue"], q["v"])
        assert q["eigenvalue"].shape == q["beta"].shape
        close(eigenvalue.expand_as(beta), 1 - beta * square)
        close(q["e_post"], eigenvalue * q["e_pre"])
        close(q["update_norm"], q["k_norm"] * (beta * q["e_pre"]).norm(dim=-1))
    close(q["write_norm"], q["k_norm"] * (beta * q["v"]).norm(dim=-1))
    assert bool((q["k_cos_prev"][1:].abs() <= 1 + 1e-12).all())
    length = {"guarded": 1.0, "exact": 1.0, "learned_scale": config.direction_scale_init}[config.direction_norm]
    if config.direction_norm == "learned_scale":
        length = torch.stack([n.scale for n in observer.normalises.values()]).view(4, 1, 1)
    close(q["k_norm"], length * torch.ones(4, 2, 5, dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("name", SPLITS)
def test_interventions_change_every_group_alike(name: str) -> None:
    residual = lively_residual(VARIANTS[name])

    def beta(*interventions: Intervention) -> Tensor:
        observer = Observer(interventions, keep_states=True)
        run_residual(residual, observer)
        return observer.rewrites["0.attn"].beta.detach()

    own = beta()
    assert own.shape == (2, 4, 3)
    assert float(own.std(-1).min()) > 1e-3
    changed = beta(Intervention("set", value=0.5, positions=(1, -1)))
    assert bool((changed[:, [1, 3]] == 0.5).all())
    assert torch.equal(changed[:, [0, 2]], own[:, [0, 2]])
    close(beta(Intervention("mean")), own.mean(1, keepdim=True).expand_as(own))
    close(beta(Intervention("scale", value=1.5)), (1.5 * own).clamp(max=2.0))
    assert torch.equal(beta(Intervention("patch", betas={"0.attn": own[0]})), own[:1].expand_as(own))
    with pytest.raises(ValueError, match=r"betas\['0.attn'\] has shape \(2, 4\), the site's gate has \(2, 4, 3\)"):
        beta(Intervention("patch", betas={"0.attn": own[..., 0]}))
    assert torch.equal(run_residual(residual, Observer([Intervention("scale", value=1.0)])), run_residual(residual))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("operation", ["drop_erase", "drop_write"])
def test_dropping_erase_and_write_is_the_formula_for_every_direction(name: str, operation: str) -> None:
    residual = lively_residual(VARIANTS[name])
    observer = Observer([Intervention(operation, positions=(2,))], keep_states=True)
    after = run_residual(residual, observer)
    seen, state = observer.rewrites["0.attn"], observer.states["0.attn"]
    k = residual.normalise(observer.directions["0.attn"]).k
    beta = per_channel(seen.beta, seen.target).unsqueeze(-2)
    here = (torch.arange(4) == 2).double().view(1, 4, 1, 1)
    written = k.unsqueeze(-1) * seen.target.unsqueeze(-2)
    erased = k.unsqueeze(-1) * torch.einsum("btd,btdv->btv", k, state).unsqueeze(-2) * residual.erases
    keep_write, keep_erase = (1, 1 - here) if operation == "drop_erase" else (1 - here, 1)
    close(after, state + beta * (keep_write * written - keep_erase * erased))


@pytest.mark.parametrize("config", [GROUPED, VARIANTS["first edition, attention, grouped"]], ids=str)
def test_the_patch_classifier_takes_the_same_words(config: ResidualConfig, tiny_config: ImageClassifierConfig) -> None:
    model = lively(ImageClassifier(replace(tiny_config, residual=config)), seed=0)
    observer = Observer()
    pixels = torch.randn(2, 1, 18, 15, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(model(pixels), model(pixels, observer))
    assert [rewrite.beta.shape for rewrite in observer.rewrites.values()] == [(2, 20, 3)] * 4


def test_words_that_do_not_fit_are_named() -> None:
    bad: list[tuple[dict[str, object], str]] = [
        ({"gate_groups": 2}, "gate_groups must be 1 unless gate is 'grouped', got 2"),
        ({"gate": "grouped", "gate_groups": 0}, "gate_groups must be at least 1, got 0"),
        ({"direction": "pooled_mlp"}, "target_input must be 'output' where direction is 'pooled_mlp'"),
        ({"direction_norm": "none"}, "direction_norm must be one of 'guarded', 'exact', 'learned_scale', got 'none'"),
        ({"direction_scale_init": 0.0}, "direction_scale_init must be above 0 and finite, got 0.0"),
        ({"direction_scale_init": math.inf}, "direction_scale_init must be above 0 and finite"),
        ({"direction_hidden_width": 0}, "direction_hidden_width must be at least 1"),
        ({"gate": "per_channel"}, "gate must be one of 'linear', 'two_layer', 'grouped', got 'per_channel'"),
    ]
    for values, message in bad:
        with pytest.raises(ConfigError, match=message):
            ResidualConfig(**values)  # type: ignore[arg-type]
    for make in (
        lambda residual: ImageClassifierConfig(labels=("a", "b"), residual=residual, state=StateConfig(4)),
        lambda residual: LanguageModelConfig(residual=residual, state=StateConfig(4)),
    ):
        with pytest.raises(ConfigError, match="gate_groups must be a divisor of the 4 value channels, got 3"):
            make(GROUPED)


def test_shapes_are_checked_here() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        by_group(delta.rewrite, random(2, 3, 4), random(2, 4), random(2, 4), random(2))


def test_defaults_make_the_parameters_that_they_always_made() -> None:
    names = {name for name, _ in LanguageModel(BASE).blocks[0].attn.residual.named_parameters()}
    assert names == {"gate.weight", "gate.bias", "target.weight", "target.bias"}
