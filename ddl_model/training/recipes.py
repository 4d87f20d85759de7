"""Named training runs, each a plain function that returns its whole configuration."""

from collections.abc import Callable
from dataclasses import replace

from ddl_model.config import (
    AttentionConfig,
    DeltaMLPConfig,
    DeltaResNetConfig,
    ImageClassifierConfig,
    LanguageModelConfig,
    ResidualConfig,
    StateConfig,
)
from ddl_model.training.config import ImageDataConfig, OptimizerConfig, TextDataConfig, TrainConfig
from ddl_model.training.fashion_mnist import LABELS, PIXEL_MEAN, PIXEL_STD

PAPER_RESIDUAL = ResidualConfig(target_input="compressed", target_map="scaled_sigmoid")
PAPER_STATE = StateConfig(value_channels=4, expand="convolution", channel_weights="convolution", shared_compressor=True)
"""The authors' code: DDL-CC-EC with d_v = 4 (channel compressor, embedding convolution)."""


def fashion_mnist() -> TrainConfig:
    """Delta classifier of Fashion-MNIST: 7 x 7 patches, 3 layers, 4 value channels, 0.2 M parameters."""
    return TrainConfig(
        name="fashion-mnist",
        model=ImageClassifierConfig(
            labels=LABELS,
            pixel_mean=PIXEL_MEAN,
            pixel_std=PIXEL_STD,
            background="dark",
            stem_planes=(16, 32),
            width=64,
            layers=3,
            heads=4,
            feedforward_width=170,
            state=StateConfig(value_channels=4),
        ),
        data=ImageDataConfig(shift_pixels=2, validation_images=5000),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.05, beta2=0.99, warmup=0.1, clip_norm=0.0),
        batch_size=128,
        epochs=8,
    )


def fashion_mnist_resnet() -> TrainConfig:
    """Convolutional delta network of Fashion-MNIST with mirroring, shifts and cutout: 0.6 M parameters."""
    return TrainConfig(
        name="fashion-mnist-resnet",
        model=DeltaResNetConfig(
            labels=LABELS,
            pixel_mean=PIXEL_MEAN,
            pixel_std=PIXEL_STD,
            background="dark",
            planes=(24, 48, 96),
            blocks=3,
        ),
        data=ImageDataConfig(shift_pixels=2, erase_pixels=8, validation_images=5000),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.05, beta2=0.99, warmup=0.1, clip_norm=1.0),
        batch_size=128,
        epochs=12,
    )


def fashion_mnist_mlp() -> TrainConfig:
    """Delta perceptron of Fashion-MNIST, whole images as vectors: 0.4 M parameters."""
    return TrainConfig(
        name="fashion-mnist-mlp",
        model=DeltaMLPConfig(labels=LABELS, inputs=28 * 28),
        data=ImageDataConfig(mirror=True, shift_pixels=1, validation_images=5000),
        optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=0.05, beta2=0.99, warmup=0.1),
        batch_size=128,
        epochs=10,
    )


def text_tiny() -> TrainConfig:
    """Delta language model that trains in a minute on any text: 2 layers of width 64, vocabulary of 512."""
    return TrainConfig(
        name="text-tiny",
        model=_small_language_model(vocab_size=512, layers=2, width=64, heads=2, head_width=32),
        data=TextDataConfig("data/text-512", sequence_length=64, validation_tokens=20_000),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        batch_size=16,
        steps=300,
        evaluate_every=100,
    )


def text_4m() -> TrainConfig:
    """Delta language model (DDL-CC-EC) of 4 M parameters for English, five hours of one CPU core."""
    return TrainConfig(
        name="text-4m",
        model=_small_language_model(vocab_size=8000, layers=6, width=192, heads=3, head_width=64),
        data=TextDataConfig("data/english-8k", sequence_length=256, corpus="english"),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=0.02, final_fraction=0.05),
        batch_size=32,
        accumulation=4,
        epochs=2,
        evaluate_every=500,
        save_every=100,
    )


def text_17m() -> TrainConfig:
    """Delta language model (DDL-CC-EC) of 17 M parameters for English, for a GPU."""
    return TrainConfig(
        name="text-17m",
        model=_small_language_model(vocab_size=8000, layers=8, width=384, heads=6, head_width=64),
        data=TextDataConfig("data/english-8k", sequence_length=512, corpus="english"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.02, final_fraction=0.05),
        batch_size=128,
        epochs=20,
        evaluate_every=200,
        precision="bf16-mixed",
    )


def paper_124m() -> TrainConfig:
    """The paper's small model, DDL-CC-EC of 124 M parameters as in the authors' code; tokens of GPT-2."""
    model = LanguageModelConfig(residual=PAPER_RESIDUAL, state=PAPER_STATE)
    return _paper_run("paper-124m", model, learning_rate=6e-4, accumulation=15)


def paper_353m() -> TrainConfig:
    """The paper's medium model, DDL-CC-EC of 353 M parameters as in the authors' code; tokens of GPT-2."""
    model = LanguageModelConfig(
        layers=24,
        width=1024,
        feedforward_width=2730,
        attention=AttentionConfig(heads=8, head_width=128),
        residual=PAPER_RESIDUAL,
        state=PAPER_STATE,
    )
    return _paper_run("paper-353m", model, learning_rate=3e-4, accumulation=30)


def additive(config: TrainConfig) -> TrainConfig:
    """Return the additive twin of a run: the same everything with x + f(x) instead of the rewrite."""
    model = config.model
    if isinstance(model, ImageClassifierConfig | LanguageModelConfig):
        model = replace(model, residual=ResidualConfig(rule="additive"), state=StateConfig(value_channels=1))
    else:
        model = replace(model, residual=replace(model.residual, rule="additive"))
    return replace(config, name=f"{config.name}-additive", model=model)


def _small_language_model(vocab_size: int, layers: int, width: int, heads: int, head_width: int) -> LanguageModelConfig:
    """Return a model in the paper's form (targets from the context, one compressor per sublayer), SwiGLU of 8/3."""
    return LanguageModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        width=width,
        feedforward_width=8 * width // 3,
        attention=AttentionConfig(heads=heads, head_width=head_width),
        state=StateConfig(value_channels=4, expand="convolution"),
    )


def _paper_run(name: str, model: LanguageModelConfig, learning_rate: float, accumulation: int) -> TrainConfig:
    """Return half a million tokens a step, 1024 each; the authors published no schedule: it is GPT-2's usual one."""
    return TrainConfig(
        name=name,
        model=model,
        data=TextDataConfig("data/gpt2-tokens", sequence_length=1024, validation_tokens=1_000_000),
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup=0.02, final_fraction=0.1),
        batch_size=480,
        steps=100_000,
        accumulation=accumulation,
        evaluate_every=1000,
        precision="bf16-mixed",
    )


_DELTA = (
    text_tiny,
    text_4m,
    text_17m,
    paper_124m,
    paper_353m,
    fashion_mnist,
    fashion_mnist_resnet,
    fashion_mnist_mlp,
)
RECIPES: dict[str, Callable[[], TrainConfig]] = {recipe.__name__.replace("_", "-"): recipe for recipe in _DELTA}
"""Recipes by name; `--additive` gives the twin of each."""
