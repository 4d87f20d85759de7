"""Language models: every knob decodes like its uncached full forward, and rows do not touch each other.

What the authors' code gets wrong is right here: a prefill shorter than a convolution, shifted keys and values in
decode, left padding, rows of different lengths, a cache that is continued twice, kernels of one tap.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ddl_model import AttentionConfig, LanguageModel, LanguageModelConfig, Observer, ResidualConfig, StateConfig
from ddl_model.token_stream import DecodeCache
from tests.ddl_model.steps import rewritten

BASE = LanguageModelConfig(
    vocab_size=31,
    layers=2,
    width=12,
    feedforward_width=20,
    attention=AttentionConfig(heads=2, head_width=6),
    state=StateConfig(value_channels=3, shared_compressor=True, channel_weights="convolution", compress_kernel=3),
)


def state(**changes: object) -> LanguageModelConfig:
    return replace(BASE, state=replace(BASE.state, **changes))


def residual(**changes: object) -> LanguageModelConfig:
    return replace(BASE, residual=ResidualConfig(**changes))  # type: ignore[arg-type]


def attention(**changes: object) -> LanguageModelConfig:
    token = replace(BASE.state, compress="token", expand="convolution")
    return replace(BASE, state=token, attention=replace(BASE.attention, **changes))


CONFIGS = {
    "cc": BASE,
    "cc, direct weights": state(channel_weights="direct", shared_compressor=False),
    "cc, more taps than channels": state(compress_kernel=5),
    "cc-ec": state(expand="convolution", expand_kernel=4),
    "tc": state(compress="token", compress_kernel=4),
    "tc, compressor per sublayer": state(compress="token", compress_kernel=4, shared_compressor=False),
    "tc-ec": state(compress="token", compress_kernel=3, expand="convolution", expand_kernel=5),
    "tc-ec, one tap each": state(compress="token", compress_kernel=1, expand="convolution", expand_kernel=1),
    "scalar state": state(value_channels=1, channel_weights="direct"),
    "eight channels": state(value_channels=8, compress_kernel=8),
    "two-layer gate": residual(gate="two_layer", gate_hidden_width=7),
    "scaled sigmoid of the compressed input": residual(target_map="scaled_sigmoid", target_input="compressed"),
    "constant target": residual(target_map="constant"),
    "write only": residual(rule="write_only"),
    "additive, expanded state": residual(rule="additive"),
    "shifted keys and values": attention(key_shift=True, value_shift=True),
    "activations": attention(query_activation="silu", key_activation="relu", value_activation="elu+1"),
    "output gate and head norm": attention(output_gate=True, head_norm="output", head_norm_eps=1e-3),
    "group norm, no query norm": attention(head_norm="group", query_key_norm=False),
    "half of the head rotates": attention(rotary_fraction=0.5, rotary_base=100.0),
    "nothing rotates": attention(rotary_fraction=0.0),
    "scaled logits": replace(BASE, logits_scale=0.25),
}


def lively_model(config: LanguageModelConfig, seed: int = 0) -> LanguageModel:
    """Return a model in float64 whose every parameter matters."""
    model = LanguageModel(config).double()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = (1.0 + 0.3 * noise) if "norm" in name else noise * fan_in**-0.5
    return model.eval()


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return lively_model(CONFIGS[request.param])


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(5))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_any_split_into_chunks_is_the_full_forward(model: LanguageModel, ids: Tensor) -> None:
    full = model(ids)
    for split in ([9], [1] * 9, [1, 8], [2, 1, 1, 5], [7, 2]):
        cache: DecodeCache | None = None
        parts = []
        for chunk in ids.split(split, dim=1):
            logits, cache = model.step(chunk, cache)
            parts.append(logits)
        close(torch.cat(parts, dim=1), full)
        assert cache is not None
        assert cache.lengths.tolist() == [9, 9]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padding_by_mask_is_no_padding(model: LanguageModel, ids: Tensor, side: str) -> None:
    short = ids[1:, :5]
    first = {"left": 4, "right": 0, "both": 2}[side]
    padded, mask = torch.full((1, 9), 30), torch.zeros(1, 9, dtype=torch.int64)
    padded[:, first : first + 5], mask[:, first : first + 5] = short, 1
    together = model(torch.cat([ids[:1], padded]), torch.cat([torch.ones_like(mask), mask]))
    close(together[:1], model(ids[:1]))
    close(together[1:, first : first + 5], model(short))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_different_lengths_decode_like_rows_alone(model: LanguageModel, ids: Tensor, side: str) -> None:
    lengths = [2, 6]  # the first is shorter than the convolutions reach
    prompt, mask = torch.full((2, 6), 30), torch.zeros(2, 6, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(6 - length, None) if side == "left" else slice(0, length)
        prompt[row, place], mask[row, place] = ids[row, :length], 1
    _, cache = model.step(prompt, attention_mask=mask)
    for step in range(3):
        tokens = torch.stack([ids[row, length + step] for row, length in enumerate(lengths)]).unsqueeze(1)
        logits, cache = model.step(tokens, cache)
        for row, length in enumerate(lengths):
            close(logits[row, 0], model(ids[row : row + 1, : length + step + 1])[0, -1])
    # Rows may also grow by different numbers of tokens, or by none.
    tokens, mask = torch.full((2, 2), 30), torch.tensor([[1, 1], [0, 0]])
    tokens[0] = ids[0, 5:7]
    logits, later = model.step(tokens, cache, mask)
    close(logits[0], model(ids[:1, :7])[0, 5:])
    assert later.lengths.tolist() == [7, 9]


@torch.no_grad()
def test_a_cache_can_be_continued_twice_and_its_rows_reordered(model: LanguageModel, ids: Tensor) -> None:
    _, cache = model.step(ids[:, :4])
    first, _ = model.step(ids[:, 4:6], cache)
    other, _ = model.step(ids[:, 6:8], cache)
    again, _ = model.step(ids[:, 4:6], cache)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    swapped, _ = model.step(ids[:, 4:6].flip(0), cache.select(torch.tensor([1, 0])))
    close(swapped, first.flip(0))


@torch.no_grad()
def test_later_tokens_do_not_change_earlier_logits(model: LanguageModel, ids: Tensor) -> None:
    changed = ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 31
    before, after = model(ids), model(changed)
    close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@torch.no_grad()
def test_observers_see_every_site_and_change_no_bit(model: LanguageModel, ids: Tensor) -> None:
    observer = Observer()
    assert torch.equal(model(ids, observer=observer), model(ids))
    assert list(observer.rewrites) == model.sites


@torch.no_grad()
def test_write_only_does_not_erase(ids: Tensor) -> None:
    """The control differs from the rewrite by the erased readout, and by nothing else."""
    delta = lively_model(CONFIGS["cc"])
    control = LanguageModel(residual(rule="write_only")).double()
    control.load_state_dict(delta.state_dict())
    steps = []
    for model in (delta, control):
        step = model.blocks[0].attn
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 3, 12, 3, generator=generator, dtype=torch.float64)
        output, context = torch.randn(2, 2, 3, 12, generator=generator, dtype=torch.float64)
        observer = Observer()
        steps.append((rewritten(step.residual, x, output, context, context, observer), observer.rewrites["0.attn"]))
    (after, seen), (after_control, seen_control) = steps
    assert torch.equal(seen.beta, seen_control.beta)
    assert torch.equal(seen.target, seen_control.target)
    k = output / (output.square().sum(-1, keepdim=True) + 1e-10).sqrt()
    erased = seen.beta[..., None, None] * k.unsqueeze(-1) * seen.readout.unsqueeze(-2)
    close(after_control - after, erased)


def test_controls_start_from_the_same_weights() -> None:
    weights = {}
    for rule in ("delta", "write_only", "additive"):
        torch.manual_seed(3)
        weights[rule] = LanguageModel(residual(rule=rule)).state_dict()
    assert weights["write_only"].keys() == weights["delta"].keys()
    assert {name for name in weights["delta"] if ".residual." not in name} == weights["additive"].keys()
    for rule in ("write_only", "additive"):
        assert all(torch.equal(tensor, weights["delta"][name]) for name, tensor in weights[rule].items())


def test_initial_weights_are_those_of_the_paper_s_code() -> None:
    torch.manual_seed(0)
    config = replace(CONFIGS["tc-ec"], width=256, vocab_size=500, layers=4)
    model = LanguageModel(config)
    spread = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim > 1}
    assert spread["embedding.weight"] == pytest.approx(0.02, rel=0.05)
    assert spread["blocks.0.attn.process.out.weight"] == pytest.approx(0.5 / 16 / 2, rel=0.1)
    assert spread["blocks.0.mlp.process.expand.weight"] == pytest.approx(0.5 / 16, rel=0.05)
    assert spread["blocks.2.compress.kernel"] == pytest.approx(0.5 / 16, rel=0.1)
    assert bool((model.expand.kernel[:, -1] == 1).all())
    assert not model.expand.kernel[:, :-1].any()
    assert bool((model.final_compress.read == 1 / 3).all())


def test_bad_input_is_named(ids: Tensor) -> None:
    model = lively_model(BASE)
    with pytest.raises(ValueError, match="token id 31 is outside the vocabulary of 31"):
        model(torch.tensor([[1, 31]]))
    with pytest.raises(ValueError, match="has a gap between a row's tokens"):
        model(ids, torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1]] * 2))
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 3\), input_ids \(2, 9\)"):
        model(ids, torch.ones(2, 3))
    _, cache = model.step(ids)
    with pytest.raises(ValueError, match="the cache has 2 rows, the input has 1"):
        model.step(ids[:1], cache)


def test_autocast_uses_fused_norms(ids: Tensor) -> None:
    model = LanguageModel(BASE)
    with torch.autocast("cpu", torch.bfloat16):  # a norm that is not fused warns, and warnings are errors here
        logits = model(ids)
    torch.testing.assert_close(logits.float(), model(ids), atol=0.1, rtol=0.1)
