"""A small language model with a tokenizer of its own, as a checkpoint and as a bundle that tests may copy."""

from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch

from ddl_model import AttentionConfig, LanguageModel, LanguageModelConfig, ResidualConfig, StateConfig
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from ddl_model.training.text.tokenizer import train_tokenizer
from export.language.bundle import LanguageBundle
from export.trace import ExportedGraph
from service.bundle import read_bundle
from tests.export.language_networks import network

SENTENCE = "a delta rule moves what is read along one direction towards what is wanted and leaves all others alone"
WORDS = SENTENCE.split()
TEXT = " ".join(WORDS[(7 * i + i // 5) % len(WORDS)] for i in range(600))
VOCABULARY = 270

CONFIG = LanguageModelConfig(
    vocab_size=VOCABULARY,
    layers=1,
    width=32,
    feedforward_width=40,
    attention=AttentionConfig(heads=2, head_width=8),
    residual=ResidualConfig(gate="two_layer", gate_hidden_width=16),
    state=StateConfig(value_channels=4, expand="convolution", expand_kernel=4),
)
TRAINING = {
    "recipe": "text",
    "seed": 0,
    "data": {"name": "words", "sha256": "0" * 64, "train": {"tokens": 1000, "documents": 1}},
    "step": 3,
    "steps": 3,
    "config": {"data": {"sequence_length": 24}},
    "curve": [{"epoch": 0.5, "train_loss": 2.0, "validation_loss": 2.5, "validation_accuracy": 0.5}],
    "test": {"loss": 2.5, "bits_per_byte": 1.5},
}


def text_model() -> LanguageModel:
    """Return the network."""
    return network(CONFIG, seed=3)


def save_text_checkpoint(run: Path, config: LanguageModelConfig = CONFIG, **parts: object) -> Path:
    """Write a checkpoint; `parts` replace what belongs to it."""
    tokenizer = train_tokenizer([TEXT], VOCABULARY)
    ids = torch.tensor([tokenizer.encode(TEXT, add_special_tokens=False).ids[:60]])
    checkpoint = Checkpoint(
        network(config, seed=3).state_dict(),
        config,
        TRAINING,
        samples={"input_ids": ids[:, :-1].clone(), "labels": ids[:, 1:].clone()},
        tokenizer=tokenizer.to_str(),
    )
    return save_checkpoint(run, 3, replace(checkpoint, **parts))  # type: ignore[arg-type]


@pytest.fixture
def traced(text_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ExportedGraph]:
    """Return the graphs of the bundle, and let exports of language models take them instead of tracing again."""
    graphs = {}
    for name, graph in read_bundle(text_bundle).manifest.graphs.items():
        model = ir.serde.deserialize_model(onnx.load(text_bundle / graph.file))
        graphs[name] = ExportedGraph(model, {op.name: op.count for op in graph.custom_ops})
    monkeypatch.setattr(LanguageBundle, "graphs", lambda self: graphs)
    return graphs
