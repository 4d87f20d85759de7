"""Checkpoints: a folder of weights, configuration and training record, all in formats that hold no code.

Beside `model.safetensors`, `config.json` and `training.json` stand `optimizer.safetensors`, to resume from,
`samples.safetensors`, a few held-out inputs to try the model on, and a language model's `tokenizer.json`.

A run folder holds checkpoints named `step-NNNNNNNN`. Each appears whole or not at all: it is written under another
name, flushed to disk and renamed.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ddl_model import authors
from ddl_model.config import (
    ConfigError,
    DeltaMLPConfig,
    DeltaResNetConfig,
    ImageClassifierConfig,
    LanguageModelConfig,
)
from ddl_model.delta_mlp import DeltaMLP
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel

SCHEMA = "ddl.checkpoint/1"
MODEL_TYPE = "deep_delta"  # by which transformers recognises our folders; see `ddl_model.hf`
WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
TRAINING_NAME = "training.json"
OPTIMIZER_NAME = "optimizer.safetensors"
SAMPLES_NAME = "samples.safetensors"
TOKENIZER_NAME = "tokenizer.json"
AUTHORS_PICKLE_NAME = "pytorch_model.bin"

ModelConfig = ImageClassifierConfig | LanguageModelConfig | DeltaResNetConfig | DeltaMLPConfig
Model = ImageClassifier | LanguageModel | DeltaResNet | DeltaMLP
_MODELS: dict[str, tuple[type[ModelConfig], type[Model]]] = {
    "image_classifier": (ImageClassifierConfig, ImageClassifier),
    "language_model": (LanguageModelConfig, LanguageModel),
    "delta_resnet": (DeltaResNetConfig, DeltaResNet),
    "delta_mlp": (DeltaMLPConfig, DeltaMLP),
}
_STEP_FOLDER = re.compile(r"step-(\d{8})")


class CheckpointError(Exception):
    """A folder holds no checkpoint that can be loaded; the message says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory. `optimizer` and `samples` are empty where the files were left out.

    `samples` holds `pixels`, normalised model inputs (n, channels, height, width), and their `labels` (n,); or
    `input_ids` (1, tokens) and the `labels` that follow each of them. `tokenizer` is the content of `tokenizer.json`,
    empty where there is none.
    """

    weights: dict[str, Tensor]
    config: ModelConfig
    training: dict[str, Any]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    tokenizer: str = ""


def save_checkpoint(run: Path, step: int, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a checkpoint into the run folder, then drop all but the `keep` newest. Returns its folder."""
    run.mkdir(parents=True, exist_ok=True)
    folder = run / f"step-{step:08d}"
    partial = run / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _save_tensors(partial / WEIGHTS_NAME, checkpoint.weights)
    for name, tensors in ((OPTIMIZER_NAME, checkpoint.optimizer), (SAMPLES_NAME, checkpoint.samples)):
        if tensors:
            _save_tensors(partial / name, tensors)
    _save_json(partial / CONFIG_NAME, describe(checkpoint.config))
    _save_json(partial / TRAINING_NAME, checkpoint.training)
    if checkpoint.tokenizer:
        (partial / TOKENIZER_NAME).write_text(checkpoint.tokenizer, encoding="utf-8")
    for path in (*partial.iterdir(), partial):
        _flush(path)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    _flush(run)
    for old in checkpoint_folders(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def describe(config: ModelConfig) -> dict[str, Any]:
    """Return the content of `config.json`."""
    kind = next(name for name, (config_type, _) in _MODELS.items() if isinstance(config, config_type))
    return {"schema": SCHEMA, "model_type": MODEL_TYPE, "model": kind, "config": config.to_dict()}


def checkpoint_folders(run: Path) -> list[Path]:
    """Return the run's checkpoints, oldest first."""
    found = [path for path in run.glob("step-*") if _STEP_FOLDER.fullmatch(path.name)]
    return sorted(found)


def find_checkpoint(path: Path) -> Path:
    """Return `path` if it is a checkpoint, else the newest checkpoint of the run folder `path`.

    Raises:
        CheckpointError: it is neither.
    """
    if (path / WEIGHTS_NAME).is_file() or (path / AUTHORS_PICKLE_NAME).is_file():
        return path
    if folders := checkpoint_folders(path):
        return folders[-1]
    raise CheckpointError(f"{path} is no checkpoint ({WEIGHTS_NAME} is missing) and no run folder (no step-* in it)")


def read_checkpoint(path: Path, *, optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint or the newest one of a run folder.

    Without `optimizer` its state, twice as large as the weights, is left in its file.

    Raises:
        CheckpointError: a file is missing, damaged or of another format.
    """
    folder = find_checkpoint(path)
    described = _load_json(folder / CONFIG_NAME)
    if "schema" not in described:  # ours have one; the file of their additive baseline has no model type either
        return _read_authors_checkpoint(folder, described)
    if described.get("schema") != SCHEMA or described.get("model") not in _MODELS:
        known = ", ".join(_MODELS)
        raise CheckpointError(f"{folder / CONFIG_NAME} does not describe one of {known}, schema {SCHEMA}")
    try:
        config = _MODELS[described["model"]][0].from_dict(described["config"])
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG_NAME}: {error}") from error
    training = _load_json(folder / TRAINING_NAME) if (folder / TRAINING_NAME).exists() else {}
    wanted = {OPTIMIZER_NAME: optimizer, SAMPLES_NAME: True}
    state, samples = (
        _load_tensors(folder / name) if asked and (folder / name).exists() else {} for name, asked in wanted.items()
    )
    tokenizer = folder / TOKENIZER_NAME
    text = tokenizer.read_text(encoding="utf-8") if tokenizer.exists() else ""
    return Checkpoint(_load_tensors(folder / WEIGHTS_NAME), config, training, state, samples, text)


def load_checkpoint(path: str | Path) -> Model:
    """Return the model of a checkpoint, or of the newest one of a run folder, on the CPU and in eval mode.

    The folder may be ours or one of the paper's authors, with safetensors or their pickle, which is read
    without running any code in it.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the config.
    """
    return build_model(read_checkpoint(Path(path), optimizer=False)).eval()


def make_model(config: ModelConfig) -> Model:
    """Return a model of the configuration's kind with random weights, in training mode; seed torch before."""
    kind = next(model for known, model in _MODELS.values() if isinstance(config, known))
    return kind(config)  # type: ignore[arg-type]


def build_model(checkpoint: Checkpoint) -> Model:
    """Return a model with the checkpoint's weights, in training mode.

    Raises:
        CheckpointError: the weights do not fit the config.
    """
    model = make_model(checkpoint.config)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the config: {error}") from error
    return model


def _read_authors_checkpoint(folder: Path, described: dict[str, Any]) -> Checkpoint:
    pickle = folder / AUTHORS_PICKLE_NAME
    if (folder / WEIGHTS_NAME).is_file():
        weights = _load_tensors(folder / WEIGHTS_NAME)
    else:
        try:
            weights = torch.load(pickle, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or a hostile pickle comes to
            raise CheckpointError(f"{pickle} cannot be read: {error}") from error
    try:
        config = authors.translate_config(described, weights)
        return Checkpoint(authors.translate_weights(weights, config), config, {})
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    # Not save_file: it makes files that only their owner can read.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return tensors


def _save_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state by parameter name, as `PARAMETER/KEY`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned.

    Raises:
        CheckpointError: a tensor belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        if parameter_name not in parameters:
            raise CheckpointError(f"{OPTIMIZER_NAME} has {name!r}, which belongs to no parameter of the model")
        optimizer.state[parameters[parameter_name]][key] = tensor
