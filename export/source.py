"""From a checkpoint folder to a network that can become a bundle."""

import dataclasses
from pathlib import Path

from ddl_model.checkpoint import (
    AUTHORS_PICKLE_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    Checkpoint,
    build_model,
    find_checkpoint,
    read_checkpoint,
)
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel
from export.image_bundle import ImageBundle
from export.kind import Kind
from export.language.bundle import LanguageBundle
from service.bundle import file_sha256


class ExportError(Exception):
    """A bundle cannot be written; the message says why and what to do."""


def open_checkpoint(path: Path) -> tuple[Kind, str]:
    """Return the network of a checkpoint, or of a run's newest, and the hash of its weights.

    Raises:
        ExportError: it cannot be exported.
        CheckpointError: it cannot be read.
    """
    folder = find_checkpoint(path)
    checkpoint = read_checkpoint(folder, optimizer=False)
    if not checkpoint.tokenizer and (tokenizer := folder / TOKENIZER_NAME).is_file():
        checkpoint = dataclasses.replace(checkpoint, tokenizer=tokenizer.read_text(encoding="utf-8"))
    kind = kind_of(folder, checkpoint)
    if reason := kind.refusal():
        raise ExportError(f"{folder}: {reason}")
    weights = next(path for name in (WEIGHTS_NAME, AUTHORS_PICKLE_NAME) if (path := folder / name).is_file())
    return kind, file_sha256(weights)


def kind_of(folder: Path, checkpoint: Checkpoint) -> Kind:
    """Return how a checkpoint becomes a bundle.

    Raises:
        ExportError: no kind of bundle is for its network.
    """
    model = build_model(checkpoint).eval()
    if isinstance(model, ImageClassifier | DeltaResNet):
        return ImageBundle(model, checkpoint)
    if isinstance(model, LanguageModel):
        return LanguageBundle(model, checkpoint)
    kinds = "only image classifiers and language models can be exported"
    raise ExportError(f"{folder} holds a {type(model).__name__}: {kinds}")
