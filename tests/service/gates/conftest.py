"""Small models whose gates spread over [0, 2], exported and served, beside their torch originals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import Client

if TYPE_CHECKING:
    from ddl_model import ImageClassifier, LanguageModel, LanguageModelConfig

TEXT = "a delta rule moves what is read"
TOLERANCE: dict[str, Any] = {"rtol": 2e-4, "atol": 5e-5}
"""Float32 through few layers; steep gates amplify, and some quantities divide by what is small."""


@dataclass(frozen=True)
class Served:
    """A client of the models, and their originals.

    They are `words` (delta), `writer` (write-only), `mixer` (compresses over tokens), `faint` (one value channel, raw
    directions of about 1e-4) and the classifier `pictures`.
    """

    client: Client
    models: dict[str, LanguageModel | ImageClassifier]

    def post(self, model: str, body: dict[str, Any], path: str = "", **options: Any) -> Any:
        return self.client.post(f"/v1/models/{model}/gates{path}", json=body, **options)

    def ask(self, model: str, inputs: dict[str, Any], path: str = "", **fields: Any) -> Any:
        response = self.post(model, {"inputs": inputs, **fields}, path)
        assert response.status_code == 200, response.text
        return response.json()


def language_configs() -> dict[str, LanguageModelConfig]:
    """Return the configurations of the language models."""
    from ddl_model import ResidualConfig, StateConfig
    from tests.export.text_checkpoint import CONFIG

    attention = replace(CONFIG.attention, head_width=6)  # too narrow for a graph of a step, which costs time
    over_tokens = StateConfig(value_channels=3, compress="token", compress_kernel=3)
    return {
        "words": replace(CONFIG, layers=2),
        "writer": replace(CONFIG, attention=attention, residual=ResidualConfig(rule="write_only")),
        "mixer": replace(CONFIG, attention=attention, state=over_tokens),
        "faint": replace(CONFIG, attention=attention, state=StateConfig(value_channels=1)),
    }


def language_network(name: str, config: LanguageModelConfig) -> LanguageModel:
    """Return a network; the sublayers of `faint` say next to nothing."""
    from tests.export.language_networks import network

    model = network(config, seed=3)
    if name == "faint":
        for parameter in (part for key, part in model.named_parameters() if key.endswith("process.out.weight")):
            parameter.data *= 1e-4
    return model


@pytest.fixture(scope="session")
def gates_repository(tmp_path_factory: pytest.TempPathFactory, tiny_model: ImageClassifier) -> Path:
    """Return a repository of five models; tests must not change it."""
    from ddl_model.checkpoint import Checkpoint, save_checkpoint
    from export.pipeline import export_bundle
    from tests.export.text_checkpoint import save_text_checkpoint

    root = tmp_path_factory.mktemp("gates-models")
    runs = tmp_path_factory.mktemp("gates-runs")
    for name, config in language_configs().items():
        weights = language_network(name, config).state_dict()
        export_bundle(save_text_checkpoint(runs / name, config, weights=weights), root / name / "1")
    run = save_checkpoint(runs / "pictures", 1, Checkpoint(tiny_model.state_dict(), tiny_model.config, {}))
    export_bundle(run, root / "pictures" / "1")
    return root


@pytest.fixture(scope="session")
def served(gates_repository: Path, tiny_model: ImageClassifier) -> Iterator[Served]:
    """Return the service and the originals."""
    client = Client(create_app(Settings(repository=gates_repository)))
    models: dict[str, Any] = {name: language_network(name, config) for name, config in language_configs().items()}
    models["pictures"] = tiny_model
    yield Served(client, models)
    client.close()


def tokens_of(served: Served, text: str = TEXT) -> list[int]:
    """Return the tokens of a text."""
    return served.client.state.repository.get("words").language.tokenizer.encode(text)


def arrays(part: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a result."""
    return {name: np.array(tensor["data"], np.float64) for name, tensor in part["tensors"].items()}
