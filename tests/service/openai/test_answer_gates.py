from typing import Any

import numpy as np
import pytest

from service.bundle import read_bundle
from service.security.keys import KeyFile, new_key, write_keys
from tests.service.conftest import Client
from tests.service.generation.conftest import Words
from tests.service.openai.conftest import chunks

PATH = "/v1/completions"
ASK = {"model": "words", "prompt": "a delta rule", "temperature": 0, "max_tokens": 5}


def ask(texts: Client, path: str = PATH, **fields: Any) -> Any:
    response = texts.post(path, json={**ASK, **fields})
    assert response.status_code == 200, response.text
    return response


def test_the_gates_of_each_token_are_those_of_the_whole_text(texts: Client, words: Words, text_bundle: Any) -> None:
    (choice,) = ask(texts, gates={"quantities": ["beta", "eigenvalue"], "prompt": "full"}).json()["choices"]
    told = choice["gates"]
    prompt = words.tokenizer.encode("a delta rule")
    answer = [token["id"] for token in told["tokens"]]
    assert answer == words.continued(prompt, 5)
    gates = read_bundle(text_bundle).manifest.gates
    assert gates is not None
    names = gates.outputs["beta"]
    outputs = words._whole.run({words.task.tokens: np.array([[*prompt, *answer]])}, list(names))
    beta = np.stack([outputs[name][0] for name in names])
    np.testing.assert_allclose(told["prefill"]["tensors"]["beta"]["data"], beta[:, : len(prompt)], atol=1e-4)
    found = np.array([token["gates"]["beta"] for token in told["tokens"]]).T
    np.testing.assert_allclose(found, beta[:, len(prompt) - 1 : -1], atol=1e-4)
    np.testing.assert_allclose(told["summary"]["mean"]["beta"], found.mean(1), atol=1e-4)
    assert set(told["tokens"][0]["gates"]) == {"beta", "eigenvalue"}
    assert told["meta"]["prompt_tokens"]["ids"] == prompt
    assert len(told["meta"]["sites"]) == len(names)


@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions"])
def test_a_stream_tells_the_same(texts: Client, path: str) -> None:
    fields: dict[str, Any] = {"gates": {"every": 2}, "n": 2, "temperature": 1, "seed": 1, "ignore_eos": True}
    if path != PATH:
        fields |= {"model": "talk", "messages": [{"role": "user", "content": "a"}]}
        body = {name: value for name, value in {**ASK, **fields}.items() if name != "prompt"}
    else:
        body = {**ASK, **fields}
    whole = texts.post(path, json=body).json()["choices"]
    parts = chunks(texts.post(path, json={**body, "stream": True}).text)
    for choice in whole:
        own = [
            c["gates"] for part in parts for c in part["choices"] if c["index"] == choice["index"] and c.get("gates")
        ]
        assert [token for part in own for token in part.get("tokens", [])] == choice["gates"]["tokens"]
        assert [token["index"] for token in choice["gates"]["tokens"]] == [0, 2, 4]
        assert own[0]["meta"] == choice["gates"]["meta"]
        assert own[0]["prefill"] == choice["gates"]["prefill"]
        assert own[-1]["summary"] == choice["gates"]["summary"]


def test_a_stream_put_together_is_the_answer_in_one_piece(texts: Client) -> None:
    body = {**ASK, "gates": {"quantities": "page", "prompt": "full"}}
    (whole,) = texts.post(PATH, json=body).json()["choices"]
    parts = [
        choice for part in chunks(texts.post(PATH, json={**body, "stream": True}).text) for choice in part["choices"]
    ]
    told = [part["gates"] for part in parts if part.get("gates")]
    together: dict[str, Any] = {"tokens": [token for part in told for token in part.get("tokens", [])]}
    for part in told:
        together |= {name: value for name, value in part.items() if name != "tokens"}
    assert together == whole["gates"]
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert parts[-1]["finish_reason"] == whole["finish_reason"]


def test_nobody_who_does_not_ask_gets_gates(texts: Client) -> None:
    assert "gates" not in ask(texts).json()["choices"][0]


@pytest.mark.parametrize(
    ("gates", "status", "words_of_it"),
    [
        ({"quantities": ["nix"]}, 400, "nix"),
        ({"quantities": ["survival"]}, 501, "survival"),
        ({"every": 0}, 400, "got 0"),
        ({"sites": 1}, 400, "unknown field"),
        ({"interventions": [{"op": "set", "value": 0}]}, 400, "/v1/models/NAME/gates takes interventions"),
    ],
)
def test_what_is_not_there_is_refused(texts: Client, gates: Any, status: int, words_of_it: str) -> None:
    response = texts.post(PATH, json={**ASK, "gates": gates})
    assert response.status_code == status
    assert words_of_it in response.json()["error"]["message"]


def test_too_many_numbers_are_refused_before_they_are_computed(texts: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    small = texts.state.settings.model_copy(update={"json_cells": 10})
    monkeypatch.setattr(texts.state, "settings", small)
    response = texts.post(PATH, json={**ASK, "gates": {"prompt": "full"}})
    assert response.status_code == 400
    assert "at most 10 are written" in response.json()["error"]["message"]


def test_a_key_for_texts_alone_sees_no_gates(serve: Any, text_repository: Any, tmp_path: Any) -> None:
    key, record = new_key("texts", ["infer"])
    write_keys(tmp_path / "keys.json", KeyFile(keys=(record,)))
    client = serve(repository=str(text_repository), api_keys=tmp_path / "keys.json")
    headers = {"authorization": f"Bearer {key}"}
    assert client.post(PATH, json=ASK, headers=headers).status_code == 200
    response = client.post(PATH, json={**ASK, "gates": {}}, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (403, "permission_error")
