"""Fixtures that need torch; imported lazily, so the service's tests run where torch is not installed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from torch import nn

    from ddl_model import ImageClassifier, ImageClassifierConfig
    from ddl_model.training.config import TrainConfig
    from ddl_model.training.image_data import ImageSet

Network = TypeVar("Network", bound="nn.Module")

SMALL_SHA256 = {
    "train-images-idx3-ubyte": "c452e242f0d371afb53bcd6683897b3e12c186f8fd668cbf2d72f7657fa2c60f",
    "train-labels-idx1-ubyte": "fe33686b3dd3b99e5b6a628086a6cdf14ba5b2417c7ad0a98af055b3993881c8",
    "t10k-images-idx3-ubyte": "da8499c14a5cd8d23c1e3fe30c7b1d13ed749dcc774e5e2e63546f374d193e79",
    "t10k-labels-idx1-ubyte": "1c2b49dfd9eefaa5d2ef8cfc4f7865249b7ef309ec0fca04f28b4c4cb5294256",
}


@pytest.fixture(scope="session")
def tiny_config() -> ImageClassifierConfig:
    """Return a classifier small enough to train in seconds; its shape is odd on purpose (5 x 4 tokens, 3 channels)."""
    from ddl_model import ImageClassifierConfig, StateConfig

    return ImageClassifierConfig(
        labels=("a", "b", "c"),
        image_height=18,
        image_width=15,
        stem_planes=(6, 8),
        width=20,
        layers=2,
        heads=2,
        feedforward_width=26,
        state=StateConfig(value_channels=3),
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config: ImageClassifierConfig) -> Iterator[ImageClassifier]:
    """Yield a tiny classifier whose gates differ from token to token; tests must not change it."""
    import torch

    from ddl_model import ImageClassifier

    model = lively(ImageClassifier(tiny_config), seed=0)
    before = copy.deepcopy(model.state_dict())
    yield model
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert not changed, f"a test changed the model that others share: {changed}"


def lively(model: Network, seed: int) -> Network:
    """Draw every parameter anew so that no term of a formula is zero or one; eval mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim == 2 else 9
        spread = 0.8 if ".gate." in name else fan_in**-0.5
        noise = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data = 1.0 + 0.3 * noise if "norm" in name else noise
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        elif name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def small_data(small_data_folder: Path) -> tuple[ImageSet, ImageSet]:
    """Return 640 training and 160 test images of Fashion-MNIST."""
    from ddl_model.training import fashion_mnist

    return fashion_mnist.load(small_data_folder, SMALL_SHA256)


@pytest.fixture(scope="session")
def small_recipe() -> TrainConfig:
    """Return a run of two epochs of five steps."""
    from ddl_model import ImageClassifierConfig, StateConfig
    from ddl_model.training.config import ImageDataConfig, OptimizerConfig, TrainConfig
    from ddl_model.training.fashion_mnist import LABELS

    return TrainConfig(
        name="small",
        model=ImageClassifierConfig(
            labels=LABELS,
            pixel_mean=0.286,
            pixel_std=0.353,
            background="dark",
            stem_planes=(8, 8),
            width=16,
            layers=2,
            heads=2,
            feedforward_width=24,
            state=StateConfig(value_channels=2),
        ),
        data=ImageDataConfig(shift_pixels=2, validation_images=100),
        optimizer=OptimizerConfig(learning_rate=5e-3, weight_decay=0.05, beta2=0.99, warmup=0.2, clip_norm=0.0),
        epochs=2,
        batch_size=100,
    )


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small language model's checkpoint, with a tokenizer; tests must not change it."""
    from tests.export.text_checkpoint import save_text_checkpoint

    return save_text_checkpoint(tmp_path_factory.mktemp("text-run"))


@pytest.fixture(scope="session")
def text_bundle(text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of that checkpoint in float32, the one model of a repository; tests must not change it."""
    from export.pipeline import export_bundle

    folder = tmp_path_factory.mktemp("text-models") / "words" / "1"
    assert export_bundle(text_checkpoint, folder, description="Words.").agrees
    return folder
