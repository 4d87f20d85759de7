"""Text out of a small grammar, its tokens, and a language model that learns them in seconds."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from ddl_model.training.config import TextDataConfig, TrainConfig
from ddl_model.training.image_data import ImageSet
from ddl_model.training.image_task import ImageTask
from ddl_model.training.overrides import override
from ddl_model.training.recipes import text_tiny
from ddl_model.training.text.prepare import Preparation, prepare_tokens
from ddl_model.training.text_task import TextTask

VOCABULARY = 300

SLOW_NORM = "ignore:Mismatch dtype between input and weight"
"""torch says that norms of bf16 values by float32 weights, as autocast makes them, are not fused."""


def sentences(seed: int, count: int = 12) -> str:
    """Return a document of simple sentences."""
    draw = random.Random(seed)
    who = ("the cat", "a dog", "my sister", "an old man", "the small bird")
    what = ("sees", "likes", "follows", "never forgets", "often finds")
    lines = (f"{draw.choice(who)} {draw.choice(what)} {draw.choice(who)}." for _ in range(count))
    return " ".join(line[0].upper() + line[1:] for line in lines)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Return 60 different documents."""
    return [sentences(seed) for seed in range(60)]


@pytest.fixture(scope="session")
def text_file(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with all documents."""
    path = tmp_path_factory.mktemp("text") / "all.txt"
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokens(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of token shards, cut into small files."""
    folder = tmp_path_factory.mktemp("data") / "tokens"
    how = Preparation(VOCABULARY, validation_fraction=0.1, shard_tokens=2500)
    prepare_tokens([str(text_file)], folder, how)
    return folder


@pytest.fixture(scope="session")
def text_config(tokens: Path) -> TrainConfig:
    """Return a run of 12 steps on the tokens."""
    small = [
        f"model.vocab_size={VOCABULARY}",
        "model.width=24",
        "model.feedforward_width=40",
        "model.attention.heads=2",
        "model.attention.head_width=8",
        f"data.folder={tokens}",
        "data.sequence_length=16",
        "data.validation_tokens=200",
        "batch_size=8",
        "steps=12",
        "evaluate_every=4",
    ]
    return override(text_tiny(), small)


def text_task(config: TrainConfig) -> TextTask:
    """Open the tokens of a run."""
    assert isinstance(config.data, TextDataConfig)
    return TextTask(config.data, config.model, config.seed)  # type: ignore[arg-type]


def image_task(config: TrainConfig, data: tuple[ImageSet, ImageSet]) -> ImageTask:
    """Return the task of a run on images in memory."""
    return ImageTask(data, config.data, config.model, config.seed)  # type: ignore[arg-type]


def optimizer_changed(config: TrainConfig, **changes: float) -> TrainConfig:
    """Return the run with fields of its optimizer changed."""
    return replace(config, optimizer=replace(config.optimizer, **changes))
