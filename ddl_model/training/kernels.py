"""Kernels behind the model's operators, loaded by name: neither the model nor this package imports any."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import nn

from ddl_model.config import ConfigError

TRITON = "export.kernels.triton"
"""This project's own kernels for NVIDIA cards, forward and backward."""


class Kernels(Protocol):
    """A module with kernels."""

    def enable(self) -> bool:
        """Put the kernels behind the operators; return whether they can run here at all."""
        ...

    def keep_every(self, function: Callable[..., Any], every: int) -> Callable[..., Any]:
        """Return `function` such that one in `every` states is kept for the backward pass, the others made again."""
        ...


def choose_kernels(choice: str, accelerator: str) -> str:
    """Return the module that `choice` means: `auto` is Triton's where there is a card and Triton, `off` is none."""
    if choice == "off":
        return ""
    if choice != "auto":
        return choice
    usable = accelerator != "cpu" and torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
    return TRITON if usable and importlib.util.find_spec(TRITON.partition(".")[0]) is not None else ""


def enable_kernels(module: str) -> Kernels:
    """Load a module by name and put its kernels behind the operators.

    Raises:
        ConfigError: there is no such module, it holds no kernels, or they cannot run on this machine.
    """
    try:
        kernels = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--kernels {module}: {error}") from error
    if not (hasattr(kernels, "enable") and hasattr(kernels, "keep_every")):
        raise ConfigError(f"--kernels {module}: it has no `enable` and `keep_every`, so it holds no kernels")
    if not kernels.enable():
        raise ConfigError(f"--kernels {module}: they cannot run on this machine; --kernels off uses the plain formula")
    return cast(Kernels, kernels)


class FewStates(nn.Module):
    """A network that keeps one in `every` of its states between forward and backward."""

    def __init__(self, model: nn.Module, kernels: Kernels, every: int) -> None:
        """Wrap `model`, whose weights stay where they are."""
        super().__init__()
        self.model = model
        self._run = kernels.keep_every(model, every)

    def forward(self, *inputs: Any) -> Any:
        """Return what the model returns."""
        return self._run(*inputs)
