"""The same initialisation for an additive control: the draws of a rule's own layers must not shift all others."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from ddl_model.config import ImageClassifierConfig, LanguageModelConfig

Config = TypeVar("Config", LanguageModelConfig, ImageClassifierConfig)


def delta_twin(config: Config) -> Config | None:
    """Return the config of the delta network that an additive one is the control of, or None for other rules."""
    if config.residual.rule != "additive":
        return None
    return replace(config, residual=replace(config.residual, rule="delta"))


def start_as(control: nn.Module, twin: nn.Module) -> None:
    """Give `control` the weights that it shares with `twin`, by name."""
    weights = twin.state_dict()
    with torch.no_grad():
        for name, tensor in control.state_dict().items():
            tensor.copy_(weights[name])
