"""Checkpoints of the authors with every other knob: loaded by us, they equal the specification written out plainly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ddl_model import LanguageModel, load_checkpoint
from tests.ddl_model import authors_reference

D, H, W, F, V, L = 10, 2, 6, 26, 23, 2

KNOBS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "two-layer gate": {"ddl_beta_single_linear": False, "ddl_beta_hidden_size": 7},
    "linear target": {"ddl_v_sigmoid": False},
    "other target scale": {"ddl_v_sigmoid_scale": 1.5},
    "constant target": {"ddl_v_constant": True, "ddl_v_constant_value": 0.7},
    "constant target of the scalar state": {"ddl_v_dim1_constant": True, "ddl_v_dim1_constant_value": -0.4},
    "large guard": {"ddl_k_eps": 0.3},
    "group norm": {"using_groupnorm": True},
    "output gate": {"use_output_gate": True, "rms_norm_eps": 1e-2},
    "output gate and group norm": {"use_output_gate": True, "using_groupnorm": True, "rms_norm_eps": 1e-2},
    "no query and key norm": {"use_qk_rmsnorm": False},
    "key shift": {"use_k_shift": True},
    "value shift": {"use_v_shift": True},
    "activations": {"q_activation": "silu", "k_activation": "relu", "v_activation": "elu+1"},
    "identity activation": {"q_activation": "identity"},
    "half rotation": {"rope_ratio": 0.5, "rope_base": 50.0},
    "no rotation": {"rope_ratio": 0.0},
    "scaled logits": {"mup": True, "hidden_size_base": 40},
    "ignored by their code": {"dropout": 0.5, "bias": True, "ddl_state_dv_shortconv_causal": True, "block_size": 3},
}
VARIANTS = ("vdim1", "cc", "cc-ec", "tc", "tc-ec")


def make_weights(variant: str, config: dict[str, Any], channels: int = 3, taps: int = 4) -> dict[str, Tensor]:
    """Return random weights under the authors' names."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.4)

    dv = 1 if variant == "vdim1" else channels
    weights = {"transformer.wte.weight": draw(V, D) * 2, "ln_f.weight": 1 + draw(D)}
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    if variant.endswith("ec"):
        weights["input_embed.conv.weight"] = draw(D * dv, 1, 3)
    compressors = ["readout", *(f"transformer.h.{layer}.compress" for layer in range(L))]
    for at in compressors if variant != "vdim1" else []:
        weights[f"{at}.read"] = draw(dv)
        name, rows = ("weight", D) if variant.startswith("cc") else ("shortconv.weight", D * dv)
        weights[f"{at}.{name}"] = draw(rows, dv if variant.startswith("cc") else taps) * 2
    for layer in range(L):
        at = f"transformer.h.{layer}"
        weights |= {f"{at}.ln_1.weight": 1 + draw(D), f"{at}.ln_2.weight": 1 + draw(D)}
        weights |= {f"{at}.attn.c_q.weight": draw(H * W, D), f"{at}.attn.c_proj.weight": draw(D, H * W)}
        for part in "kv":
            if config.get(f"use_{part}_shift"):
                weights[f"{at}.attn.c_{part}.linear.weight"] = draw(H * W, D)
                weights[f"{at}.attn.c_{part}.shift_proj.weight"] = draw(H, D) * 3
            else:
                weights[f"{at}.attn.c_{part}.weight"] = draw(H * W, D)
        if config.get("use_qk_rmsnorm", True):
            weights |= {f"{at}.attn.q_rms.weight": 1 + draw(W), f"{at}.attn.k_rms.weight": 1 + draw(W)}
        if config.get("using_groupnorm"):
            weights[f"{at}.attn.subln.weight"] = 1 + draw(W)
        elif config.get("use_output_gate"):
            weights[f"{at}.attn.o_norm.weight"] = 1 + draw(W)
        if config.get("use_output_gate"):
            weights[f"{at}.attn.g_proj.weight"] = draw(H * W, D)
        weights |= {f"{at}.mlp.c_fc1.weight": draw(F, D), f"{at}.mlp.c_fc2.weight": draw(F, D)}
        weights[f"{at}.mlp.c_proj.weight"] = draw(D, F)
        for sublayer in ("attn", "mlp"):
            gate = f"{at}.ddl_{sublayer}"
            if config.get("ddl_beta_single_linear", True):
                weights |= {f"{gate}.beta.weight": draw(1, D) * 2, f"{gate}.beta.bias": draw(1)}
            else:
                hidden = config["ddl_beta_hidden_size"]
                weights |= {f"{gate}.beta_in.weight": draw(hidden, D), f"{gate}.beta_out.weight": draw(1, hidden) * 3}
                weights[f"{gate}.beta_out.bias"] = draw(1)
            weights |= {f"{gate}.v_proj.weight": draw(dv, D), f"{gate}.v_proj.bias": draw(dv)}
    return weights


def load(folder: Path, weights: dict[str, Tensor], config: dict[str, Any]) -> LanguageModel:
    (folder / "config.json").write_text(json.dumps({"model_type": "nanogpt-pro", "architectures": ["GPT"], **config}))
    save_file(weights, folder / "model.safetensors")
    model = load_checkpoint(folder)
    assert isinstance(model, LanguageModel)
    return model.double()


def agree(folder: Path, weights: dict[str, Tensor], knobs: dict[str, Any]) -> None:
    config = {"num_hidden_layers": L, "num_attention_heads": H, "head_dim": W, "hidden_size": D, "vocab_size": V}
    config |= knobs
    ids = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        actual = load(folder, weights, config)(ids)
    expected = authors_reference.logits(weights, config, ids)
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("knobs", KNOBS)
def test_every_knob_of_every_variant(variant: str, knobs: str, tmp_path: Path) -> None:
    agree(tmp_path, make_weights(variant, KNOBS[knobs]), KNOBS[knobs])


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
@pytest.mark.parametrize("variant", ["cc", "tc-ec"])
def test_any_number_of_value_channels(variant: str, channels: int, tmp_path: Path) -> None:
    agree(tmp_path, make_weights(variant, {}, channels=channels), {"ddl_value_channels": channels})


@pytest.mark.parametrize("taps", [1, 2, 7])
def test_any_number_of_token_taps(taps: int, tmp_path: Path) -> None:
    agree(tmp_path, make_weights("tc", {}, taps=taps), {"ddl_state_shortconv_kernel_size": taps})
