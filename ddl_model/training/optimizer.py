"""AdamW and its learning rate."""

import math

import torch
from torch import nn

from ddl_model.training.config import OptimizerConfig


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and kernels, but neither biases, nor norms, nor what has one axis."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type == "cuda" for parameter in parameters)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=fused or None)


def optimizer_of(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return the optimizer that a run's configuration asks for."""
    betas = (config.beta1, config.beta2)
    return make_optimizer(model, config.learning_rate, config.weight_decay, betas, config.eps)


def learning_rate_at(step: int, steps: int, peak: float, warmup: float, final_fraction: float = 0.0) -> float:
    """Return the learning rate of a step.

    It rises linearly over the first `warmup` of all steps and falls along a cosine to `final_fraction` of the peak.
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return peak * (step + 1) / rise
    cosine = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
