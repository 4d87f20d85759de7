from typing import Any

import numpy as np
import pytest

from tests.service.conftest import Client
from tests.service.generation.conftest import Words
from tests.service.openai.conftest import log_softmax

SCORE, TOKENIZE, DETOKENIZE = (f"/v1/models/words/{path}" for path in ("score", "tokenize", "detokenize"))
TEXT = "a delta rule moves"


def score(texts: Client, *inputs: dict[str, Any], **fields: Any) -> Any:
    response = texts.post(SCORE, json={"inputs": list(inputs), **fields})
    assert response.status_code == 200, response.text
    return response.json()["results"]


def likelihoods(words: Words, tokens: list[int], start: int) -> np.ndarray:
    table = log_softmax(words.logits(tokens))
    return table[range(start - 1, len(tokens) - 1), tokens[start:]]


def test_a_text_is_scored_from_the_end_of_the_text_before(texts: Client, words: Words) -> None:
    (found,) = score(texts, {"text": TEXT})
    tokens = words.tokenizer.encode(TEXT)
    assert words.tokenizer.end_of_text is not None
    expected = likelihoods(words, [words.tokenizer.end_of_text, *tokens], 1)
    np.testing.assert_allclose(found["token_logprobs"], expected, atol=1e-4)
    assert found["logprob"] == pytest.approx(expected.sum(), abs=1e-3)
    assert found["tokens"] == tokens
    assert (found["scored"], found["bytes"]) == (len(tokens), len(TEXT))
    (bare,) = score(texts, {"text": TEXT}, begin=False)
    assert bare["token_logprobs"][0] is None
    assert (bare["scored"], bare["bytes"]) == (len(tokens) - 1, len(words.tokenizer.decode(tokens[1:]).encode()))


def test_a_context_is_read_and_not_scored(texts: Client, words: Words) -> None:
    context, text = "a delta rule", " moves what"
    head = words.tokenizer.encode(context)
    whole = words.tokenizer.encode(context + text)
    forms = [
        {"context": context, "text": text},
        {"context": context + " ", "text": text.lstrip()},
        {"context_tokens": head, "tokens": whole[len(head) :]},
    ]
    found = score(texts, *forms, top=2)
    expected = likelihoods(words, whole, len(head))
    for result in found:
        np.testing.assert_allclose(result["token_logprobs"], expected, atol=1e-4)
        assert result["bytes"] == len(text)
        assert [len(row) for row in result["top_logprobs"]] == [2] * len(expected)
    assert found[0] == found[1] == found[2]


def test_what_greedy_decoding_gives_is_greedy(texts: Client, words: Words) -> None:
    context = words.tokenizer.encode(TEXT)
    answer = words.continued(context, 5)
    other = [*answer[:-1], (answer[-1] + 1) % words.vocabulary]
    pairs = [{"context_tokens": context, "tokens": tokens} for tokens in (answer, other)]
    results = score(texts, *pairs, per_token=False)
    assert [result["is_greedy"] for result in results] == [True, False]
    assert set(results[0]) == {"logprob", "is_greedy", "scored", "bytes"}
    assert results[0]["logprob"] > results[1]["logprob"]


def test_tokens_there_and_back(texts: Client, words: Words) -> None:
    text = "a delta häuft 𝛿"
    found = texts.post(TOKENIZE, json={"text": text, "pieces": True}).json()
    assert found["tokens"] == words.tokenizer.encode(text)
    assert (found["count"], found["max_tokens"]) == (len(found["tokens"]), 256)
    assert len(found["pieces"]) == found["count"]
    assert any(piece.startswith("bytes:\\x") for piece in found["pieces"])
    back = texts.post(DETOKENIZE, json={"tokens": found["tokens"]}).json()
    assert back == {"model": "words", "version": "1", "text": text}
    end = words.tokenizer.end_of_text
    with_end = texts.post(DETOKENIZE, json={"tokens": [*found["tokens"], end]}).json()["text"]
    assert with_end == text + "<|endoftext|>"
    skipped = {"tokens": [*found["tokens"], end], "skip_special_tokens": True}
    assert texts.post(DETOKENIZE, json=skipped).json()["text"] == text
    assert texts.post(TOKENIZE, json={"text": ""}).json()["tokens"] == []


def test_models_are_listed_as_openai_does(texts: Client) -> None:
    listed = texts.get("/v1/models").json()
    assert listed["object"] == "list"
    cards = {card["id"]: card for card in listed["data"]}
    assert set(cards) == {"words", "talk", "tiny"} == {model["name"] for model in listed["models"]}
    assert cards["words"]["object"] == "model"
    assert cards["words"]["max_model_len"] == 256
    assert cards["tiny"]["max_model_len"] is None
    assert cards["tiny"]["created"] == 1767225600
    assert texts.get("/v1/models/words").json() == cards["words"]
