"""Named training runs, each a plain function that returns its whole configuration."""

from collections.abc import Callable

from ddl_model.config import ImageClassifierConfig, StateConfig
from ddl_model.training.config import TrainConfig
from ddl_model.training.fashion_mnist import LABELS


def fashion_mnist() -> TrainConfig:
    """Delta classifier of Fashion-MNIST: 7 x 7 patches, 3 layers, 4 value channels, 0.2 M parameters."""
    return TrainConfig(
        name="fashion-mnist",
        dataset="fashion-mnist",
        model=ImageClassifierConfig(
            labels=LABELS,
            pixel_mean=0.2860,
            pixel_std=0.3530,
            background="dark",
            stem_planes=(16, 32),
            width=64,
            layers=3,
            heads=4,
            feedforward_width=170,
            state=StateConfig(value_channels=4),
        ),
        epochs=8,
        batch_size=128,
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup=0.1,
        shift_pixels=2,
        validation_images=5000,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"fashion-mnist": fashion_mnist}
