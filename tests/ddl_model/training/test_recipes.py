"""Every recipe: the size it says, a small version of it that trains, the same first weights as ever."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddl_model.checkpoint import make_model, read_checkpoint
from ddl_model.config import (
    AttentionConfig,
    DeltaMLPConfig,
    DeltaResNetConfig,
    ImageClassifierConfig,
    LanguageModelConfig,
)
from ddl_model.training.config import ImageDataConfig, TextDataConfig, TrainConfig
from ddl_model.training.image_data import ImageSet
from ddl_model.training.loop import train
from ddl_model.training.recipes import RECIPES, additive
from tests.ddl_model.training.conftest import SLOW_NORM, VOCABULARY, image_task, text_task

SIZES = {
    # Of the paper's models, by the authors' code.
    "paper-124m": (123_734_956, 123_590_400),
    "paper-353m": (353_873_236, 353_508_352),
}
"""Parameters with delta residuals, and of the additive twin."""

STEM = [-0.0024956068955361843, 0.17881453037261963, -0.2743483781814575]
HEAD = [0.056523486971855164, 0.05988609790802002, 0.10636143386363983]
ALL = 11091.430212990108
"""Of `fashion-mnist` at seed 0, before anything is trained: first numbers, and the sum of all magnitudes."""


def parameters(config: TrainConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_model(config.model).parameters())


@pytest.mark.parametrize("name", SIZES)
def test_the_papers_models_have_the_papers_sizes(name: str) -> None:
    recipe = RECIPES[name]()
    assert (parameters(recipe), parameters(additive(recipe))) == SIZES[name]


def test_the_other_sizes_are_those_in_the_descriptions() -> None:
    assert 3e6 < parameters(RECIPES["text-4m"]()) < 5e6
    assert 10e6 < parameters(RECIPES["text-17m"]()) < 30e6
    assert parameters(RECIPES["fashion-mnist-resnet"]()) == pytest.approx(0.6e6, rel=0.05)
    assert parameters(RECIPES["fashion-mnist-mlp"]()) == pytest.approx(0.44e6, rel=0.05)


def shrunk(config: TrainConfig, tokens: Path) -> TrainConfig:
    """Return a recipe as it is, but for widths, depth, data and duration."""
    model, data = config.model, config.data
    if isinstance(model, LanguageModelConfig):
        attention = AttentionConfig(heads=2, head_width=8)
        model = replace(model, vocab_size=VOCABULARY, layers=2, width=24, feedforward_width=40, attention=attention)
    elif isinstance(model, ImageClassifierConfig):
        model = replace(model, stem_planes=(6, 8), width=16, layers=2, heads=2, feedforward_width=20)
    elif isinstance(model, DeltaResNetConfig):
        model = replace(model, planes=(6, 8, 10), blocks=1)
    elif isinstance(model, DeltaMLPConfig):
        model = replace(model, width=8, branch_width=12, layers=2)
    if isinstance(data, TextDataConfig):
        data = replace(data, folder=str(tokens), sequence_length=16, validation_tokens=100)
    elif isinstance(data, ImageDataConfig):
        data = replace(data, validation_images=40)
    part = 4 if isinstance(data, TextDataConfig) else 20
    return replace(
        config, model=model, data=data, batch_size=part * config.accumulation, steps=5, epochs=0, evaluate_every=5
    )


@pytest.mark.filterwarnings(SLOW_NORM)
@pytest.mark.parametrize("twin", [False, True], ids=["delta", "additive"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_small_version_of_each_recipe_trains(
    name: str, twin: bool, tokens: Path, small_data: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    config = shrunk(additive(recipe) if twin else recipe, tokens)
    few = (small_data[0], ImageSet(small_data[1].images[:40], small_data[1].labels[:40]))
    task = text_task(config) if isinstance(config.data, TextDataConfig) else image_task(config, few)
    outcome = train(config, task, tmp_path, show_progress=False)
    assert outcome.finished
    row = read_checkpoint(tmp_path).training["curve"][-1]
    assert 0 < row["validation_loss"] < 20
    assert bool(row["gate_means"]) is not twin
    assert all(0 < gate < 2 for gate in row["gate_means"].values())


def test_the_first_weights_of_fashion_mnist_stay_what_they_are() -> None:
    torch.manual_seed(0)
    weights = make_model(RECIPES["fashion-mnist"]().model).state_dict()
    assert weights["stem.layers.0.weight"].flatten()[:3].tolist() == pytest.approx(STEM, rel=1e-6)
    assert weights["head.weight"].flatten()[:3].tolist() == pytest.approx(HEAD, rel=1e-6)
    assert float(sum(tensor.double().abs().sum() for tensor in weights.values())) == pytest.approx(ALL, rel=1e-7)
