"""The networks of the first edition: their equations on real passes, learning, checkpoints, observation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddl_model import (
    ConfigError,
    DeltaMLP,
    DeltaMLPConfig,
    DeltaResNet,
    DeltaResNetConfig,
    Intervention,
    Observer,
    ResidualConfig,
    delta,
    first_edition,
    load_checkpoint,
    measure,
)
from ddl_model.branch_residual import BranchResidual
from ddl_model.checkpoint import Checkpoint, save_checkpoint

LABELS = ("a", "b", "c")
Network = DeltaResNet | DeltaMLP
RESNET = DeltaResNetConfig(labels=LABELS, image_height=10, image_width=7, planes=(6, 8), blocks=2)
MLP = DeltaMLPConfig(labels=LABELS, inputs=5, width=6, value_channels=4, layers=3, branch_width=9)
CONFIGS: tuple[DeltaResNetConfig | DeltaMLPConfig, ...] = (RESNET, MLP)
WORDS = {
    "first edition": first_edition(),
    "attention, exact": replace(first_edition(), direction="attention_pooled", direction_norm="exact"),
    "learned scale, linear gate, squashed": replace(
        first_edition(), direction_norm="learned_scale", gate="linear", target_map="scaled_sigmoid"
    ),
    "grouped": replace(first_edition(), gate="grouped", gate_groups=2),
    "write only": replace(first_edition(), rule="write_only"),
}


def build(config: DeltaResNetConfig | DeltaMLPConfig, residual: ResidualConfig | None = None) -> Network:
    """Return a network in float64 and eval mode, every parameter of which matters."""
    config = config if residual is None else replace(config, residual=residual)
    model = DeltaResNet(config) if isinstance(config, DeltaResNetConfig) else DeltaMLP(config)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * fan_in**-0.5
    return model


def inputs_for(model: Network, rows: int = 3) -> Tensor:
    shape = (rows, 1, 10, 7) if isinstance(model, DeltaResNet) else (rows, 4, 5)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def observe(model: Network, *interventions: Intervention) -> tuple[Tensor, Observer]:
    observer = Observer(interventions, keep_states=True)
    with torch.no_grad():
        return model(inputs_for(model), observer), observer


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.fixture(
    params=[(config, words) for config in CONFIGS for words in WORDS], ids=lambda p: f"{type(p[0]).__name__}, {p[1]}"
)
def model(request: pytest.FixtureRequest) -> Network:
    config, words = request.param
    return build(config, WORDS[words])


def test_every_site_is_seen_in_order_and_observation_changes_no_bit(model: Network) -> None:
    logits, observer = observe(model)
    with torch.no_grad():
        assert torch.equal(model(inputs_for(model)), logits)
    assert logits.shape == (3, 3)
    names = ["0.conv", "1.conv", "2.conv", "3.conv"] if isinstance(model, DeltaResNet) else ["0.mlp", "1.mlp", "2.mlp"]
    assert list(observer.rewrites) == model.sites == names
    groups = (2,) if model.config.residual.gate == "grouped" else ()
    for site, seen in observer.rewrites.items():
        rows, positions = (3, 1) if isinstance(model, DeltaResNet) else (3, 4)
        channels = 4
        if isinstance(model, DeltaResNet):
            channels = 70 if site in ("0.conv", "1.conv") else 20
        assert seen.beta.shape == seen.gate_logit.shape == (rows, positions, *groups)
        assert seen.target.shape == seen.readout.shape == (rows, positions, channels)
        assert seen.direction_norm.shape == (rows, positions)


def test_each_site_is_the_equation_of_the_first_edition(model: Network) -> None:
    """X' = X + beta k (v^T - k^T X) with k and beta from the pooled state, step by step and by no code of ours."""
    _, observer = observe(model)
    residuals = {module.site: module for module in model.modules() if isinstance(module, BranchResidual)}
    config = model.config.residual
    for site, seen in observer.rewrites.items():
        residual, state = residuals[site], observer.states[site]
        pooled = state.mean(-1)
        pooled = pooled / (pooled.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        hidden = pooled if residual.gate_hidden is None else torch.tanh(pooled @ residual.gate_hidden.weight.T)
        beta = 2 / (1 + torch.exp(-(hidden @ residual.gate.weight.T + residual.gate.bias)))
        close(seen.beta, beta if config.gate == "grouped" else beta.squeeze(-1))
        raw = residual.direction(state)
        k = raw / (raw.square().sum(-1, keepdim=True) + (config.direction_norm != "exact") * 1e-10).sqrt()
        if config.direction_norm == "learned_scale":
            k = k * residual.normalise.log_scale.exp()
        spread = beta.repeat_interleave(state.shape[-1] // beta.shape[-1], -1)
        read = torch.einsum("btd,btdv->btv", k, state)
        change = seen.target - (read if config.rule == "delta" else 0.0)
        close(seen.new_state, state + torch.einsum("btd,btv->btdv", k, spread * change))
        close(seen.readout, read)


def test_the_branch_is_the_target(model: Network) -> None:
    _, observer = observe(model)
    if isinstance(model, DeltaResNet):
        block, state = model.stages[0].blocks[0], observer.states["0.conv"]
        branch = block.branch(state.view(3, 6, 10, 7)).flatten(2)
    else:
        block, state = model.blocks[0], observer.states["0.mlp"]
        branch = block.branch(state.flatten(-2))
    squashed = model.config.residual.target_map == "scaled_sigmoid"
    close(observer.rewrites[model.sites[0]].target, 4 / (1 + torch.exp(-branch)) if squashed else branch)


def test_gate_zero_is_the_identity_and_gate_one_overwrites(model: Network) -> None:
    _, closed = observe(model, Intervention("set", value=0.0))
    assert all(torch.equal(seen.new_state, closed.states[site]) for site, seen in closed.rewrites.items())
    config = model.config.residual
    if config.rule == "write_only" or config.direction_norm == "learned_scale":
        return
    _, opened = observe(model, Intervention("set", value=1.0))
    for site, seen in opened.rewrites.items():
        k = opened.normalise(site, config.direction_eps)(opened.directions[site]).k
        close(delta.readout(seen.new_state, k), seen.target, 1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_gates_start_where_the_config_says(config: DeltaResNetConfig | DeltaMLPConfig) -> None:
    config = replace(config, residual=replace(config.residual, gate_init=0.3))
    torch.manual_seed(0)
    model = DeltaResNet(config) if isinstance(config, DeltaResNetConfig) else DeltaMLP(config)
    observer = Observer()
    with torch.no_grad():
        model(inputs_for(model).float(), observer)
    for seen in observer.rewrites.values():
        torch.testing.assert_close(seen.beta, torch.full_like(seen.beta, 0.3), atol=0.2, rtol=0)


def test_every_parameter_has_a_gradient(model: Network) -> None:
    model.train()
    model(inputs_for(model)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_rows_of_a_batch_do_not_touch_each_other(model: Network) -> None:
    inputs = inputs_for(model)
    with torch.no_grad():
        close(torch.cat([model(row.unsqueeze(0)) for row in inputs]), model(inputs))


def test_a_checkpoint_comes_back_bit_for_bit(model: Network, tmp_path: Path) -> None:
    model = model.float()
    save_checkpoint(tmp_path, 0, Checkpoint(model.state_dict(), model.config, {}))
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(inputs_for(model).float()), model(inputs_for(model).float()))


def test_quantities_come_stage_by_stage() -> None:
    model = build(RESNET)
    assert isinstance(model, DeltaResNet)
    _, observer = observe(model)
    assert model.stage_sites == [["0.conv", "1.conv"], ["2.conv", "3.conv"]]
    with pytest.raises(ValueError, match=r"differ in shape, choose sites of one shape: \{'0.conv': \(3, 1, 6, 70\)"):
        measure(observer, model.config.residual)
    for sites, channels in zip(model.stage_sites, (70, 20), strict=True):
        seen = measure(observer, model.config.residual, sites=sites)
        assert seen["v"].shape == (2, 3, 1, channels)
        close(seen["e_post"], seen["eigenvalue"].unsqueeze(-1) * seen["e_pre"])
        assert torch.equal(seen["beta"][1], observer.rewrites[sites[1]].beta)
        assert not seen["drift"][0].any()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_additive_twin_is_one_word_away(config: DeltaResNetConfig | DeltaMLPConfig) -> None:
    assert (
        replace(config, residual=ResidualConfig(rule="additive")).residual.direction == "output"
    )  # no word is asked for
    model = build(config, replace(config.residual, rule="additive"))
    _, observer = observe(model)
    assert model.sites == []
    assert not observer.rewrites
    if isinstance(model, DeltaResNet):
        assert model.stage_sites == [[], []]
        block, state = model.stages[0].blocks[1], torch.randn(2, 6, 5, 4, dtype=torch.float64)
        close(block(state), state + block.branch(state))
    else:
        block, state = model.blocks[1], torch.randn(2, 3, 6, 4, dtype=torch.float64)
        close(block(state), state + block.branch(state.flatten(-2)).unflatten(-1, (6, 4)))
    assert not any(isinstance(module, BranchResidual) for module in model.modules())


def test_a_vector_is_a_sequence_of_one_and_order_does_not_matter() -> None:
    model = build(MLP)
    inputs = inputs_for(model)
    with torch.no_grad():
        close(model(inputs[:, 0]), model(inputs[:, :1]))
        close(model(inputs[:, [2, 0, 3, 1]]), model(inputs))
    for shape in ((3, 6), (3, 4, 6), (5,), (3, 0, 5), (1, 1, 1, 5)):
        with pytest.raises(ValueError, match=r"inputs must have shape \(batch, 5\) or \(batch, positions, 5\), got"):
            model(torch.zeros(shape, dtype=torch.float64))


def loss_before_and_after(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> tuple[float, float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(steps + 1):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


@pytest.mark.parametrize("words", [*WORDS, "additive"])
@pytest.mark.parametrize("kind", ["images", "vectors", "sequences"])
def test_a_handful_of_inputs_is_learned_by_heart(kind: str, words: str) -> None:
    """Labels are drawn by lot, so only the network's own fit can bring the loss down."""
    torch.manual_seed(0)
    residual = WORDS.get(words, replace(first_edition(), rule="additive"))
    shape = {"images": (12, 1, 10, 7), "vectors": (12, 5), "sequences": (12, 4, 5)}[kind]
    model: nn.Module
    if kind == "images":
        model = DeltaResNet(replace(RESNET, residual=residual))
    else:
        model = DeltaMLP(replace(MLP, width=16, branch_width=32, residual=residual))
    before, after = loss_before_and_after(model, torch.randn(shape), torch.randint(0, 3, (12,)), steps=60)
    assert before > 0.8
    assert after < 0.1 * before


Maker = Callable[..., DeltaResNetConfig | DeltaMLPConfig]


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (DeltaResNetConfig, {"planes": ()}, "planes must be a non-empty tuple of positive whole numbers"),
        (DeltaResNetConfig, {"planes": (8, 0)}, "planes must be a non-empty tuple"),
        (DeltaResNetConfig, {"blocks": 0}, "blocks must be at least 1, got 0"),
        (DeltaResNetConfig, {"image_width": 0}, "image_width must be at least 1, got 0"),
        (DeltaResNetConfig, {"pixel_std": 0.0}, "pixel_std must be above 0"),
        (DeltaResNetConfig, {"labels": ("a",)}, "labels must be at least 2 different names"),
        (DeltaResNetConfig, {"residual": ResidualConfig()}, "direction must be 'pooled_mlp' or 'attention_pooled'"),
        (
            DeltaResNetConfig,
            {"residual": replace(first_edition(), gate="grouped", gate_groups=8)},
            "gate_groups must be a divisor of the 196 value channels, got 8",
        ),
        (DeltaMLPConfig, {"inputs": 0}, "inputs must be at least 1, got 0"),
        (DeltaMLPConfig, {"value_channels": 65}, "value_channels must be between 1 and 64, got 65"),
        (DeltaMLPConfig, {"labels": ("a", "a")}, "labels must be at least 2 different names"),
        (DeltaMLPConfig, {"residual": ResidualConfig()}, "direction must be 'pooled_mlp' or 'attention_pooled'"),
        (
            DeltaMLPConfig,
            {"residual": replace(first_edition(), target_map="constant")},
            "target_map must be 'linear' or 'scaled_sigmoid'",
        ),
        (
            DeltaMLPConfig,
            {"residual": replace(first_edition(), gate="grouped", gate_groups=3)},
            "gate_groups must be a divisor of the 4 value channels, got 3",
        ),
    ],
)
def test_a_config_names_the_bad_field(make: Maker, values: dict[str, Any], message: str) -> None:
    needed = {"labels": LABELS} | ({"inputs": 5} if make is DeltaMLPConfig else {})
    with pytest.raises(ConfigError, match=message):
        make(**{**needed, **values})


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_configs_survive_json(config: DeltaResNetConfig | DeltaMLPConfig) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_stages_are_as_large_as_the_config_says() -> None:
    config = replace(RESNET, image_height=9, planes=(4, 4, 4))
    assert config.grids == [(9, 7), (5, 4), (3, 2)]
    _, observer = observe_pixels(config)
    assert [seen.target.shape[-1] for seen in observer.rewrites.values()] == [63, 63, 20, 20, 6, 6]


def observe_pixels(config: DeltaResNetConfig) -> tuple[Tensor, Observer]:
    observer = Observer()
    pixels = torch.zeros(2, config.image_channels, config.image_height, config.image_width)
    return DeltaResNet(config).eval()(pixels, observer), observer


OVERRIDES = {
    "set": ((0.0, 0.5, 0.0, 2.0, 1.0, 1.0), Intervention("set", value=0.5)),
    "clamp": ((1.0, 0.0, 0.9, 1.1, 1.0, 1.0), Intervention("clamp", low=0.9, high=1.1)),
    "drop_erase": ((1.0, 0.0, 0.0, 2.0, 0.0, 1.0), Intervention("drop_erase")),
    "drop_write": ((1.0, 0.0, 0.0, 2.0, 1.0, 0.0), Intervention("drop_write")),
}


@pytest.mark.parametrize("kind", OVERRIDES)
def test_overrides_do_what_interventions_do(model: Network, kind: str) -> None:
    override, intervention = OVERRIDES[kind]
    expected, changed = observe(model, intervention)
    values = torch.tensor(override, dtype=torch.float64).expand(1, 1, 6)
    observer = Observer(overrides=dict.fromkeys(model.sites, values))
    with torch.no_grad():
        close(model(inputs_for(model), observer), expected)
    for site, seen in observer.rewrites.items():
        close(seen.beta, changed.rewrites[site].beta)
