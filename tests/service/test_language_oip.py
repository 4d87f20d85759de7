"""Language models over the Open Inference Protocol: whole texts in, the logits of every token out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.service.conftest import Client


@pytest.fixture
def client(serve: Callable[..., Client], text_bundle: Path) -> Client:
    return serve(repository=text_bundle.parents[1], generation_slots=2, kernel_library="off")


def infer(client: Client, ids: list[list[int]]) -> np.ndarray:
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": np.shape(ids), "data": ids}
    answer = client.post("/v2/models/words/infer", json={"inputs": [tensor], "outputs": [{"name": "logits"}]})
    assert answer.status_code == 200
    (output,) = answer.json()["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


def test_whole_texts_are_answered(client: Client) -> None:
    ids = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]
    logits = infer(client, ids)
    assert logits.shape == (2, 5, 270)
    language = client.state.repository.get("words").language
    score = client.run(language.score(tuple(ids[1]), top=1))
    np.testing.assert_array_equal([top[0][0] for top in score.top[1:]], logits[1, :-1].argmax(-1))


def test_what_is_told_of_models_knows_language_models(client: Client) -> None:
    metadata = client.get("/v2/models/words").json()
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["input_ids"]
    assert client.get("/v2/models/words/config").json()["parameters"]["task"] == {"string_value": "language-model"}
    assert client.get("/v2/models/words/ready").status_code == 200
    (summary,) = client.get("/v1/models").json()["models"]
    assert (summary["task"], summary["labels"]) == ("language-model", None)
    infer(client, [[1, 2]])
    (statistics,) = client.get("/v2/models/words/stats").json()["model_stats"]
    assert statistics["inference_count"] == 1


def test_other_tasks_are_refused_by_name(client: Client) -> None:
    answer = client.post("/v1/models/words/classify", files={"file": b"no image"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:ddl:problem:task-mismatch"


def test_its_metrics_are_there(client: Client) -> None:
    language = client.state.repository.get("words").language
    client.run(language.score((5, 6, 7)))
    scraped = client.get("/metrics").text
    assert 'ddl_generation_tokens_total{kind="prompt",model="words",version="1"} 3.0' in scraped
    assert 'ddl_generation_slots{model="words",version="1"} 2.0' in scraped
