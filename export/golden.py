"""Golden samples: inputs that exercise a model, and what torch makes of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ddl_model.config import ImageClassifierConfig


def sample_pixels(config: ImageClassifierConfig, own: Mapping[str, Tensor], count: int = 8, seed: int = 0) -> Tensor:
    """Return golden inputs: the checkpoint's `own` samples where it has some, else noise, and one loud noise image.

    The loud one, four times as large as any image, drives gates and norms to where real images rarely take them.
    """
    shape = (config.image_channels, config.image_height, config.image_width)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=generator)
    samples = own.get("pixels", noise)[: count - 1]
    return torch.cat([samples, 4.0 * noise[:1]])


def write_golden(path: Path, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    """Record samples: what goes into the graph and what torch makes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"input/{name}": tensor.contiguous() for name, tensor in inputs.items()}
    tensors |= {f"output/{name}": tensor.contiguous() for name, tensor in outputs.items()}
    path.write_bytes(save(tensors))
