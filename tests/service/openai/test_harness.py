"""The model `local-completions` of lm-evaluation-harness: its own requests, and its own reading of the answers."""

from types import SimpleNamespace

import pytest

from tests.service.conftest import Client

harness = pytest.importorskip("lm_eval.models.openai_completions", reason="extra lm-eval is not installed")

CONTEXT = "a delta rule"
ENDINGS = (" moves what is read", " wanted")


def test_likelihoods_of_the_harness_are_those_of_the_score_endpoint(texts: Client) -> None:
    api = harness.LocalCompletionsAPI
    context, *whole = (
        texts.post("/v1/models/words/tokenize", json={"text": text, "add_special_tokens": False}).json()["tokens"]
        for text in (CONTEXT, *(CONTEXT + ending for ending in ENDINGS))
    )
    assert all(ids[: len(context)] == context for ids in whole)
    payload = api._create_payload(SimpleNamespace(model="words"), whole, generate=False)
    answer = texts.post("/v1/completions", json=payload)
    assert answer.status_code == 200, answer.text
    found = api.parse_logprobs([answer.json()], tokens=whole, ctxlens=[len(context)] * len(whole))
    inputs = [{"context_tokens": context, "tokens": ids[len(context) :]} for ids in whole]
    scored = texts.post("/v1/models/words/score", json={"inputs": inputs}).json()["results"]
    assert [logprob for logprob, _ in found] == pytest.approx([result["logprob"] for result in scored], abs=1e-4)
    assert [greedy for _, greedy in found] == [result["is_greedy"] for result in scored]


def test_texts_of_the_harness_are_greedy_continuations(texts: Client) -> None:
    api = harness.LocalCompletionsAPI
    asker = SimpleNamespace(model="words", _max_gen_toks=256)
    asked = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False}
    payload = api._create_payload(asker, [CONTEXT, "what"], generate=True, gen_kwargs=asked)
    answer = texts.post("/v1/completions", json=payload)
    assert answer.status_code == 200, answer.text
    alone = [
        texts.post("/v1/completions", json={"model": "words", "prompt": p, "max_tokens": 6, "temperature": 0}).json()
        for p in (CONTEXT, "what")
    ]
    assert api.parse_generations([answer.json()]) == [one["choices"][0]["text"] for one in alone]
