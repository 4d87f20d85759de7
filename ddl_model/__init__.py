"""Delta networks in PyTorch: definition, training, checkpoints."""

from ddl_model.checkpoint import load_checkpoint
from ddl_model.config import (
    AttentionConfig,
    ConfigError,
    DeltaMLPConfig,
    DeltaResNetConfig,
    ImageClassifierConfig,
    LanguageModelConfig,
    ResidualConfig,
    StateConfig,
    first_edition,
)
from ddl_model.delta_mlp import DeltaMLP
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.interventions import Intervention
from ddl_model.language_model import LanguageModel
from ddl_model.observe import Observer
from ddl_model.quantities import Trace, measure, trace

__all__ = [
    "AttentionConfig",
    "ConfigError",
    "DeltaMLP",
    "DeltaMLPConfig",
    "DeltaResNet",
    "DeltaResNetConfig",
    "ImageClassifier",
    "ImageClassifierConfig",
    "Intervention",
    "LanguageModel",
    "LanguageModelConfig",
    "Observer",
    "ResidualConfig",
    "StateConfig",
    "Trace",
    "first_edition",
    "load_checkpoint",
    "measure",
    "trace",
]
