"""The classifier: shapes, observation, residual rules, and what a rewrite in the network really does."""

from dataclasses import replace

import pytest
import torch

from ddl_model import ImageClassifier, ImageClassifierConfig, Observer, ResidualConfig, StateConfig
from ddl_model.compress import ChannelCompress
from ddl_model.expand import repeat_channels
from ddl_model.observe import site_names
from ddl_model.residual import AdditiveResidual, DeltaResidual, make_residual
from tests.ddl_model.steps import rewritten
from tests.model_fixtures import lively


def pixels_for(config: ImageClassifierConfig, batch: int = 3) -> torch.Tensor:
    shape = (batch, config.image_channels, config.image_height, config.image_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def test_observation_changes_no_bit_and_names_every_site(tiny_model: ImageClassifier) -> None:
    pixels, observer = pixels_for(tiny_model.config), Observer()
    with torch.no_grad():
        assert torch.equal(tiny_model(pixels), tiny_model(pixels, observer))
    assert list(observer.rewrites) == ["0.attn", "0.mlp", "1.attn", "1.mlp"] == tiny_model.sites == site_names(2)
    tokens = tiny_model.config.grid[0] * tiny_model.config.grid[1]
    for seen in observer.rewrites.values():
        assert seen.new_state.shape == (3, tokens, 20, 3)
        assert seen.beta.shape == seen.gate_logit.shape == seen.direction_norm.shape == (3, tokens)
        assert seen.target.shape == seen.readout.shape == (3, tokens, 3)
    spread = torch.cat([seen.beta.flatten() for seen in observer.rewrites.values()])
    assert float(spread.min()) < 0.5
    assert float(spread.max()) > 1.5


def test_an_observer_serves_one_pass(tiny_model: ImageClassifier) -> None:
    pixels, observer = pixels_for(tiny_model.config), Observer()
    tiny_model(pixels, observer)
    with pytest.raises(ValueError, match=r"site 0\.attn was recorded twice"):
        tiny_model(pixels, observer)


def test_the_discrepancy_of_the_real_next_state_shrinks_by_the_eigenvalue(tiny_model: ImageClassifier) -> None:
    """Eq. 2.4 on the network's own states: attention's rewrite is read again along the same direction."""
    observer, block = Observer(), tiny_model.blocks[0]
    with torch.no_grad():
        state = tiny_model.embed(pixels_for(tiny_model.config))
        (attn, reading), (_, following) = block.readings(None)
        after, _ = attn(state, reading(state), following, observer)
        raw = attn.process(attn.norm(attn.compress(state)))
    seen = observer.rewrites["0.attn"]
    eps = tiny_model.config.residual.direction_eps
    k = raw / (raw.square().sum(-1, keepdim=True) + eps**2).sqrt()
    error_before = torch.einsum("btd,btdv->btv", k, state) - seen.target
    error_after = torch.einsum("btd,btdv->btv", k, after) - seen.target
    expected = observer.eigenvalue("0.attn", eps).unsqueeze(-1) * error_before
    torch.testing.assert_close(error_after, expected, atol=1e-5, rtol=1e-5)


def test_images_of_a_batch_do_not_touch_each_other(tiny_model: ImageClassifier) -> None:
    pixels = pixels_for(tiny_model.config)
    with torch.no_grad():
        together = tiny_model(pixels)
        alone = torch.cat([tiny_model(image.unsqueeze(0)) for image in pixels])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_additive_rule_is_x_plus_f(tiny_config: ImageClassifierConfig) -> None:
    config = replace(tiny_config, residual=ResidualConfig(rule="additive"), state=StateConfig(value_channels=1))
    model = lively(ImageClassifier(config), seed=1)
    observer = Observer()
    with torch.no_grad():
        state = model.embed(pixels_for(config))
        block = model.blocks[0]
        expected = state[..., 0] + block.attn.process(block.attn.norm(state[..., 0]))
        (attn, reading), (_, following) = block.readings(None)
        torch.testing.assert_close(attn(state, reading(state), following, observer)[0][..., 0], expected)
    assert not observer.rewrites
    assert model.sites == []


def test_the_additive_control_starts_from_the_same_weights(tiny_config: ImageClassifierConfig) -> None:
    weights = {}
    for rule in ("delta", "additive"):
        torch.manual_seed(3)
        weights[rule] = ImageClassifier(replace(tiny_config, residual=ResidualConfig(rule=rule))).state_dict()
    assert weights["additive"].keys() < weights["delta"].keys()
    assert all(torch.equal(tensor, weights["delta"][name]) for name, tensor in weights["additive"].items())


def test_both_rules_share_one_signature() -> None:
    generator = torch.Generator().manual_seed(0)
    state, output = torch.randn(1, 2, 4, 3, generator=generator), torch.randn(1, 2, 4, generator=generator)
    for rule, kind in (("delta", DeltaResidual), ("additive", AdditiveResidual)):
        residual = make_residual(4, ResidualConfig(rule=rule), 3, "0.attn")
        assert isinstance(residual, kind)
        assert rewritten(residual, state, output, output, output).shape == state.shape


def test_gates_start_where_the_config_says() -> None:
    residual = DeltaResidual(8, ResidualConfig(gate_init=0.4), 4, "0.attn")
    observer = Observer()
    zero = torch.zeros(1, 1, 8)
    rewritten(residual, torch.zeros(1, 1, 8, 4), zero, zero, zero, observer)
    assert observer.rewrites["0.attn"].beta.tolist() == [[pytest.approx(0.4)]]


@pytest.mark.parametrize("target_input", ["context", "compressed"])
def test_the_target_is_made_from_the_input_that_the_config_names(target_input: str) -> None:
    residual = DeltaResidual(4, ResidualConfig(target_input=target_input), 4, "0.attn")
    observer, generator = Observer(), torch.Generator().manual_seed(0)
    output, context, compressed = torch.randn(3, 1, 1, 4, generator=generator)
    rewritten(residual, torch.zeros(1, 1, 4, 4), output, context, compressed, observer)
    source = {"context": context, "compressed": compressed}[target_input]
    torch.testing.assert_close(observer.rewrites["0.attn"].target, residual.target(source))


def test_scaled_sigmoid_bounds_the_target() -> None:
    residual = DeltaResidual(4, ResidualConfig(target_map="scaled_sigmoid", target_scale=3.0), 4, "0.attn")
    observer = Observer()
    big = torch.full((1, 1, 4), 100.0)
    rewritten(residual, torch.zeros(1, 1, 4, 4), big, big, big, observer)
    target = observer.rewrites["0.attn"].target
    assert bool(((target >= 0) & (target <= 3.0)).all())


def test_compressing_what_was_repeated_gives_it_back() -> None:
    embedding = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for value_channels in (1, 2, 4):
        compress = ChannelCompress(5, value_channels)
        torch.testing.assert_close(compress(repeat_channels(embedding, value_channels)), embedding)


def test_compression_weighs_rows_and_channels_separately() -> None:
    compress = ChannelCompress(2, 3)
    compress.weight.data = torch.arange(6.0).view(2, 3)
    state = torch.tensor([[[[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]]])
    assert compress(state).tolist() == [[[4.0, 9.0]]]
