"""Checkpoints of the paper's authors: their configuration and parameter names, translated to ours and back.

Their `config.json` says `model_type: nanogpt-pro` for every variant, so the variant is read off the parameter names:
`input_embed` means the embedding convolution, `compress.shortconv` the token compressor, `compress.weight` the channel
compressor, neither the scalar state; without `ddl_attn` the network is the additive baseline. Facts: SPEC section 1.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ddl_model.config import (
    Activation,
    AttentionConfig,
    ConfigError,
    HeadNorm,
    LanguageModelConfig,
    ResidualConfig,
    StateConfig,
)

_EMBEDDING = "transformer.wte.weight"
_HEAD = "lm_head.weight"

Compressors = Literal["none", "channel", "token"]


class Variant(NamedTuple):
    """What the parameter names tell: delta or additive, the compressor, the embedding convolution."""

    delta: bool
    compressor: Compressors
    embedding_convolution: bool


def recognise_variant(names: Mapping[str, Any]) -> Variant:
    """Read the variant off the parameter names."""
    if "transformer.h.0.compress.shortconv.weight" in names:
        compressor: Compressors = "token"
    elif "transformer.h.0.compress.weight" in names:
        compressor = "channel"
    else:
        compressor = "none"
    delta = any(name.startswith("transformer.h.0.ddl_attn.") for name in names)
    return Variant(delta, compressor, "input_embed.conv.weight" in names)


def translate_config(theirs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LanguageModelConfig:
    """Return our configuration of their model; what their file leaves out has their default.

    Sizes that the weights show are taken from the weights.

    Raises:
        ConfigError: a parameter that every variant has is missing, or a value is not one of theirs.
    """
    variant = recognise_variant(weights)
    try:
        vocab_size, width = weights[_EMBEDDING].shape
        feedforward_width = weights["transformer.h.0.mlp.c_fc1.weight"].shape[0]
    except KeyError as error:
        raise ConfigError(f"this is no checkpoint of the authors' model: {error.args[0]} is missing") from error
    get = theirs.get
    norm_eps = float(get("rms_norm_eps", 1e-5))
    return LanguageModelConfig(
        vocab_size=vocab_size,
        layers=sum(name.endswith(".ln_1.weight") for name in weights),
        width=width,
        feedforward_width=feedforward_width,
        attention=_attention(theirs, norm_eps),
        residual=_residual(theirs, variant),
        state=_state(theirs, variant, weights),
        # Theirs are fixed at 1e-5 in the delta models; only the baseline takes the configured one.
        norm_eps=1e-5 if variant.delta else norm_eps,
        logits_scale=int(get("hidden_size_base", 1024)) / width if get("mup", False) else 1.0,
        embedding_std=float(get("embedding_init_std", 0.02)),
        hidden_std_factor=float(get("hidden_init_std_factor", 0.5)),
    )


def _attention(theirs: Mapping[str, Any], norm_eps: float) -> AttentionConfig:
    get = theirs.get
    gated, grouped = bool(get("use_output_gate", False)), bool(get("using_groupnorm", False))
    head_norm: HeadNorm = "group" if grouped else "output" if gated else "none"
    named = [get(f"{part}_activation") for part in "qkv"]
    activations = [cast(Activation, "none" if name in (None, "identity") else name) for name in named]
    return AttentionConfig(
        heads=int(get("num_attention_heads", 6)),
        head_width=int(get("head_dim", 128)),
        rotary_base=float(get("rope_base", 10000.0)),
        rotary_fraction=float(get("rope_ratio", 1.0)),
        query_key_norm=bool(get("use_qk_rmsnorm", True)),
        query_activation=activations[0],
        key_activation=activations[1],
        value_activation=activations[2],
        key_shift=bool(get("use_k_shift", False)),
        value_shift=bool(get("use_v_shift", False)),
        output_gate=gated,
        head_norm=head_norm,
        head_norm_eps=norm_eps,
    )


def _residual(theirs: Mapping[str, Any], variant: Variant) -> ResidualConfig:
    if not variant.delta:
        return ResidualConfig(rule="additive")
    get = theirs.get
    constant = "ddl_v_dim1_constant" if variant.compressor == "none" else "ddl_v_constant"
    squashed = bool(get("ddl_v_sigmoid", True))
    is_constant = bool(get(constant, False))
    return ResidualConfig(
        rule="delta",
        direction_eps=float(get("ddl_k_eps", 1e-5)),
        gate="linear" if get("ddl_beta_single_linear", True) else "two_layer",
        gate_hidden_width=int(get("ddl_beta_hidden_size", 128)),
        gate_init=min(max(float(get("ddl_beta_init", 1.0)), 2e-6), 2.0 - 2e-6),
        target_input="compressed",
        target_map="constant" if is_constant else "scaled_sigmoid" if squashed else "linear",
        target_scale=float(get("ddl_v_sigmoid_scale", 4.0)),
        target_value=float(get(f"{constant}_value", 2.0)),
    )


def _state(theirs: Mapping[str, Any], variant: Variant, weights: Mapping[str, Tensor]) -> StateConfig:
    if variant.compressor == "none":
        return StateConfig(value_channels=1, shared_compressor=True)
    name = "shortconv.weight" if variant.compressor == "token" else "weight"
    return StateConfig(
        value_channels=weights["transformer.h.0.compress.read"].shape[0],
        expand="convolution" if variant.embedding_convolution else "repeat",
        expand_kernel=weights["input_embed.conv.weight"].shape[-1] if variant.embedding_convolution else 4,
        compress="token" if variant.compressor == "token" else "channel",
        compress_kernel=weights[f"transformer.h.0.compress.{name}"].shape[-1],
        channel_weights="convolution",
        shared_compressor=True,
    )


def parameter_names(config: LanguageModelConfig) -> dict[str, tuple[str, ...]]:
    """Return our parameter names and those of theirs that each is made of, stacked along the first axis."""
    names: dict[str, tuple[str, ...]] = {"embedding.weight": (_EMBEDDING,), "final_norm.weight": ("ln_f.weight",)}
    if config.state.expand == "convolution":
        names["expand.kernel"] = ("input_embed.conv.weight",)
    compressor = _compressor_names(config)
    names |= {f"final_compress.{ours}": (f"readout.{theirs}",) for ours, theirs in compressor.items()}
    for layer in range(config.layers):
        our, their = f"blocks.{layer}", f"transformer.h.{layer}"
        names |= {f"{our}.compress.{ours}": (f"{their}.compress.{theirs}",) for ours, theirs in compressor.items()}
        names |= {
            f"{our}.attn.process.{ours}": (f"{their}.attn.{theirs}",)
            for ours, theirs in _attention_names(config.attention).items()
        }
        names |= {
            f"{our}.attn.norm.weight": (f"{their}.ln_1.weight",),
            f"{our}.mlp.norm.weight": (f"{their}.ln_2.weight",),
            f"{our}.mlp.process.expand.weight": (f"{their}.mlp.c_fc1.weight", f"{their}.mlp.c_fc2.weight"),
            f"{our}.mlp.process.out.weight": (f"{their}.mlp.c_proj.weight",),
        }
        for sublayer in ("attn", "mlp"):
            names |= {
                f"{our}.{sublayer}.residual.{ours}": (f"{their}.ddl_{sublayer}.{theirs}",)
                for ours, theirs in _residual_names(config.residual).items()
            }
    return names


def _compressor_names(config: LanguageModelConfig) -> dict[str, str]:
    if config.state.channel_weights == "direct":
        return {}
    kernel = "shortconv.weight" if config.state.compress == "token" else "weight"
    return {"kernel": kernel, "read": "read"}


def _attention_names(config: AttentionConfig) -> dict[str, str]:
    names = {"query.weight": "c_q.weight", "out.weight": "c_proj.weight"}
    for part, shifted in (("key", config.key_shift), ("value", config.value_shift)):
        if shifted:
            names[f"{part}.linear.weight"] = f"c_{part[0]}.linear.weight"
            names[f"{part}.share.weight"] = f"c_{part[0]}.shift_proj.weight"
        else:
            names[f"{part}.weight"] = f"c_{part[0]}.weight"
    if config.query_key_norm:
        names |= {"query_norm.weight": "q_rms.weight", "key_norm.weight": "k_rms.weight"}
    if config.output_gate:
        names["output_gate.weight"] = "g_proj.weight"
    if config.head_norm != "none":
        names["head_norm.weight"] = "subln.weight" if config.head_norm == "group" else "o_norm.weight"
    return names


def _residual_names(config: ResidualConfig) -> dict[str, str]:
    if config.rule == "additive":
        return {}
    for field, theirs in (("direction", "output"), ("direction_norm", "guarded")):
        if getattr(config, field) != theirs:
            raise ConfigError(f"the authors' model has no {field} {getattr(config, field)!r}, only {theirs!r}")
    if config.gate == "grouped":
        raise ConfigError("the authors' model has no grouped gate")
    if config.gate == "two_layer":
        names = {
            "gate_hidden.weight": "beta_in.weight",
            "gate.weight": "beta_out.weight",
            "gate.bias": "beta_out.bias",
        }
    else:
        names = {"gate.weight": "beta.weight", "gate.bias": "beta.bias"}
    if config.target_map != "constant":
        names |= {"target.weight": "v_proj.weight", "target.bias": "v_proj.bias"}
    return names


def translate_weights(theirs: Mapping[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """Return our parameters from theirs. The tied head may be stored or not; a target that is constant is dropped.

    Raises:
        ConfigError: a parameter is missing or left over, or the head is not tied to the embedding.
    """
    left = dict(theirs)
    ours = {}
    for name, parts in parameter_names(config).items():
        if missing := [part for part in parts if part not in left]:
            raise ConfigError(f"the checkpoint lacks {missing[0]}")
        stacked = torch.cat([left.pop(part) for part in parts])
        ours[name] = stacked.squeeze(1) if name == "expand.kernel" else stacked
    head = left.pop(_HEAD, None)
    if head is not None and not torch.equal(head, ours["embedding.weight"]):
        raise ConfigError(f"{_HEAD} differs from {_EMBEDDING}: the head must be tied")
    if config.residual.target_map == "constant":
        left = {name: tensor for name, tensor in left.items() if ".v_proj." not in name}
    if left:
        raise ConfigError(f"the checkpoint has a parameter that this variant does not know: {min(left)}")
    return ours


def untranslate(ours: Mapping[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """Return tensors that have our parameter names (weights, gradients) under theirs."""
    theirs: dict[str, Tensor] = {}
    for name, parts in parameter_names(config).items():
        tensor = ours[name].unsqueeze(1) if name == "expand.kernel" else ours[name]
        theirs |= dict(zip(parts, tensor.chunk(len(parts)), strict=True))
    return theirs
