"""One application over the models of `models.py`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import Client
from tests.service.generation.conftest import Words
from tests.service.openai.models import write_text_models


@pytest.fixture(scope="session")
def text_repository(text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with `words`, `talk` and `tiny`; tests must not change it."""
    root = tmp_path_factory.mktemp("text-repository")
    write_text_models(root, text_bundle, slot_tokens=256)
    return root


@pytest.fixture(scope="session")
def texts(text_repository: Path) -> Iterator[Client]:
    """Return a client of the application."""
    client = Client(create_app(Settings(repository=str(text_repository))))
    yield client
    client.close()


@pytest.fixture(scope="session")
def words(text_bundle: Path) -> Words:
    """Return the model of `words`, opened beside the service."""
    return Words(text_bundle)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities (tokens, vocabulary)."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def chunks(text: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream."""
    events = text.removesuffix("data: [DONE]\n\n").split("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in events if event]


@pytest.fixture
def complete(texts: Client) -> Callable[..., dict[str, Any]]:
    """Return a function that asks for completions that must succeed."""

    def ask(prompt: Any = "a delta rule", **fields: Any) -> dict[str, Any]:
        body = {"model": "words", "prompt": prompt, "temperature": 0, "max_tokens": 6, **fields}
        response = texts.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    return ask
