"""Delta networks in PyTorch: definition, training, checkpoints."""

from ddl_model.checkpoint import load_checkpoint
from ddl_model.config import ConfigError, ImageClassifierConfig, ResidualConfig
from ddl_model.image_classifier import ImageClassifier
from ddl_model.observe import Observer

__all__ = ["ConfigError", "ImageClassifier", "ImageClassifierConfig", "Observer", "ResidualConfig", "load_checkpoint"]
