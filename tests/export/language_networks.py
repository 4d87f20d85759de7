"""Small language models that between them have every choice a configuration offers and a graph can have."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddl_model import AttentionConfig, LanguageModel, LanguageModelConfig, Observer, ResidualConfig, StateConfig
from export.graph import LOGITS, gate_outputs, traced

Floats = NDArray[np.float32]
VOCABULARY = 31
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
"""Float32 through few and narrow layers, against float64: differences stay near 1e-6."""

BASE = LanguageModelConfig(
    vocab_size=VOCABULARY,
    layers=1,
    width=12,
    feedforward_width=20,
    attention=AttentionConfig(heads=2, head_width=8),
    state=StateConfig(value_channels=4),
)

NETWORKS = {
    "cc-ec": replace(BASE, layers=2, state=StateConfig(value_channels=4, expand="convolution", expand_kernel=4)),
    "tc-ec with every attention knob": replace(
        BASE,
        logits_scale=0.25,
        state=StateConfig(
            value_channels=3,
            expand="convolution",
            expand_kernel=5,
            compress="token",
            compress_kernel=3,
            shared_compressor=True,
        ),
        residual=ResidualConfig(
            gate="two_layer", gate_hidden_width=7, target_map="scaled_sigmoid", target_input="compressed"
        ),
        attention=replace(
            BASE.attention,
            key_shift=True,
            value_shift=True,
            query_activation="silu",
            key_activation="relu",
            value_activation="elu+1",
            output_gate=True,
            head_norm="output",
            head_norm_eps=1e-3,
            rotary_fraction=0.5,
            rotary_base=100.0,
        ),
    ),
    "write only, constant target": replace(
        BASE,
        state=StateConfig(value_channels=3, shared_compressor=True, channel_weights="convolution", compress_kernel=5),
        residual=ResidualConfig(rule="write_only", target_map="constant"),
        attention=replace(BASE.attention, query_key_norm=False, head_norm="group", rotary_fraction=0.0),
    ),
    "kernels of one tap, direction from the state": replace(
        BASE,
        state=StateConfig(value_channels=8, expand="convolution", expand_kernel=1, compress="token", compress_kernel=1),
        residual=ResidualConfig(direction="pooled_mlp", direction_hidden_width=9, target_input="output"),
    ),
    "scalar state": replace(
        BASE,
        state=StateConfig(value_channels=1),
        residual=ResidualConfig(direction="attention_pooled", target_input="output"),
    ),
    "additive": replace(BASE, state=StateConfig(value_channels=1), residual=ResidualConfig(rule="additive")),
    "additive, tokens compressed": replace(
        BASE,
        state=StateConfig(value_channels=3, compress="token", compress_kernel=2),
        residual=ResidualConfig(rule="additive"),
    ),
}

GATED = [name for name, config in NETWORKS.items() if config.residual.rule != "additive"]


def network(config: LanguageModelConfig, seed: int = 0) -> LanguageModel:
    """Return a model whose every parameter matters; eval mode."""
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        spread = (parameter.shape[-1] if parameter.ndim > 1 else 4) ** -0.5
        parameter.data = (1.0 + 0.3 * noise) if "norm" in name else noise * spread
    return model.eval()


@dataclass(frozen=True)
class Exported:
    """A model, the same in float64, which is what graphs are held to, and the file of its graph."""

    model: LanguageModel
    exact: LanguageModel
    file: Path


def exported(model: LanguageModel, file: Path) -> Exported:
    """Return a model beside its graph in `file`."""
    return Exported(model, copy.deepcopy(model).double(), file)


def random_ids(rows: int, tokens: int) -> NDArray[np.int64]:
    """Return token ids."""
    return np.random.default_rng(5).integers(0, VOCABULARY, (rows, tokens))


def whole(
    model: LanguageModel, ids: NDArray[np.int64], overrides: Mapping[str, Tensor] | None = None
) -> dict[str, NDArray[Any]]:
    """Return logits and gates of whole rows, by the names of graph outputs, as torch computes them."""
    observer = Observer(overrides=overrides)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids), observer=observer)
    gates = zip(gate_outputs(model.sites), traced(observer, model.sites), strict=True)
    return {name: tensor.numpy() for name, tensor in ((LOGITS, logits), *gates)}


def close(actual: Floats, expected: NDArray[Any], name: str) -> None:
    """Compare one tensor of a graph with what it should be."""
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape, name
    np.testing.assert_allclose(actual, expected, **CLOSE, err_msg=name)


def open_session(file: Path, library: Path | None) -> ort.InferenceSession:
    """Open a graph on one thread, on the kernels of `library` or, without it, on the plain bodies."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # refused inputs are errors that the tests look for, not news
    options.intra_op_num_threads = 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
