from typing import Any

import pytest

from tests.service.conftest import Client

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SCORE, TOKENIZE, DETOKENIZE = (f"/v1/models/words/{path}" for path in ("score", "tokenize", "detokenize"))
ASK = {"model": "words", "prompt": "a delta"}
TALK = {"model": "talk", "messages": [{"role": "user", "content": "a delta"}]}

BAD = [
    # path, body, status, param, code, words of the message
    (COMPLETIONS, {**ASK, "prompt": ""}, 400, "prompt", "invalid_value", "empty"),
    (COMPLETIONS, {**ASK, "prompt": []}, 400, "prompt", "invalid_type", "none of them empty"),
    (COMPLETIONS, {**ASK, "prompt": [[]]}, 400, "prompt", "invalid_type", "none of them empty"),
    (COMPLETIONS, {**ASK, "prompt": ["a", 1]}, 400, "prompt", "invalid_type", "a list of token ids"),
    (COMPLETIONS, {**ASK, "prompt": [True]}, 400, "prompt", "invalid_type", "a list of token ids"),
    (COMPLETIONS, {**ASK, "prompt": None}, 400, "prompt", "invalid_type", "a text"),
    (COMPLETIONS, {**ASK, "prompt": [5, 270]}, 400, "prompt", "invalid_value", "token 270, the vocabulary ends at 269"),
    (COMPLETIONS, {**ASK, "prompt": [5, -1]}, 400, "prompt", None, "-1"),
    (COMPLETIONS, {**ASK, "prompt": [5, 2**70]}, 400, "prompt", None, ""),
    (COMPLETIONS, {**ASK, "prompt": "a " * 9000}, 400, "prompt", "context_length_exceeded", "at most"),
    (COMPLETIONS, {**ASK, "max_tokens": 10**6}, 400, "max_tokens", "context_length_exceeded", "max_tokens is 1000000"),
    (COMPLETIONS, {"prompt": "a"}, 400, "model", "missing_required_parameter", "model"),
    (COMPLETIONS, {"model": "words"}, 400, "prompt", "missing_required_parameter", "prompt"),
    (COMPLETIONS, {**ASK, "tempratur": 1}, 400, "tempratur", "unknown_parameter", "tempratur: unknown field"),
    (COMPLETIONS, {**ASK, "suffix": "end"}, 400, None, "unsupported_parameter", "suffix is not served"),
    (COMPLETIONS, {**ASK, "temperature": -1}, 400, "temperature", None, "got -1"),
    (COMPLETIONS, {**ASK, "temperature": "hot"}, 400, "temperature", "invalid_type", 'got "hot"'),
    (COMPLETIONS, {**ASK, "top_p": 0}, 400, "top_p", None, "got 0"),
    (COMPLETIONS, {**ASK, "top_k": -2}, 400, "top_k", None, "got -2"),
    (COMPLETIONS, {**ASK, "n": 0}, 400, "n", None, "got 0"),
    (COMPLETIONS, {**ASK, "n": 65}, 400, "n", None, "got 65"),
    (COMPLETIONS, {**ASK, "n": 1.5}, 400, "n", "invalid_type", "got 1.5"),
    (COMPLETIONS, {**ASK, "max_tokens": True}, 400, "max_tokens", "invalid_type", "got true"),
    (COMPLETIONS, {**ASK, "max_tokens": 0}, 400, None, "invalid_value", "nothing would be answered"),
    (COMPLETIONS, {**ASK, "max_tokens": 4, "min_tokens": 5}, 400, None, "invalid_value", "min_tokens is 5, more than"),
    (COMPLETIONS, {**ASK, "n": 3, "best_of": 2}, 400, None, "invalid_value", "best_of is 2, less than n=3"),
    (COMPLETIONS, {**ASK, "best_of": 2, "stream": True}, 400, "best_of", None, "cannot be streamed"),
    (COMPLETIONS, {**ASK, "best_of": 2, "temperature": 0}, 400, "best_of", None, "needs a temperature"),
    (COMPLETIONS, {**ASK, "logprobs": 21}, 400, "logprobs", None, "got 21"),
    (COMPLETIONS, {**ASK, "stop": [""]}, 400, "stop", None, "stop"),
    (COMPLETIONS, {**ASK, "stop": ["a"] * 17}, 400, "stop", None, "stop"),
    (COMPLETIONS, {**ASK, "stop_token_ids": [999]}, 400, "stop_tokens", None, "token 999"),
    (COMPLETIONS, {**ASK, "logit_bias": {"a": 1}}, 400, "logit_bias", "invalid_value", "by their numbers, got 'a'"),
    (COMPLETIONS, {**ASK, "logit_bias": {"1": 101}}, 400, "logit_bias", None, "got 101"),
    (COMPLETIONS, {**ASK, "logit_bias": {"999": 1}}, 400, "logit_bias", None, "token 999"),
    (COMPLETIONS, {**ASK, "stream_options": {"include_usage": True}}, 400, None, "invalid_value", "stream=true"),
    (COMPLETIONS, {**ASK, "response_format": {"type": "json_schema"}}, 400, "response_format", None, "json_schema"),
    (COMPLETIONS, {**ASK, "response_format": {"type": "xml"}}, 400, "response_format", None, "xml"),
    (COMPLETIONS, {**ASK, "structured_outputs": {}}, 400, "structured_outputs", None, "exactly one"),
    (COMPLETIONS, {**ASK, "structured_outputs": {"regex": "("}}, 400, None, None, ""),
    (COMPLETIONS, {**ASK, "timeout": 0}, 400, "timeout", None, "got 0"),
    (COMPLETIONS, {**ASK, "model": "gpt-4"}, 404, "model", "model_not_found", "known: talk, tiny, words"),
    (COMPLETIONS, {**ASK, "version": "7"}, 404, "model", "model_not_found", "'7'"),
    (COMPLETIONS, {**ASK, "model": "tiny"}, 400, None, "task_mismatch", "tiny"),
    (COMPLETIONS, [1], 400, None, None, ""),
    (COMPLETIONS, {**ASK, "prompt": ["a"] * 200, "n": 64}, 400, "prompt", "invalid_value", "12800 answers"),
    (CHAT, {**TALK, "model": "words"}, 400, "model", "no_chat_template", "use /v1/completions"),
    (CHAT, {**TALK, "messages": []}, 400, "messages", None, "messages"),
    (CHAT, {**TALK, "messages": [{"role": "robot", "content": "a"}]}, 400, "messages", None, "robot"),
    (
        CHAT,
        {**TALK, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages",
        "unsupported_parameter",
        "image_url",
    ),
    (
        CHAT,
        {**TALK, "messages": [*TALK["messages"], {"role": "system", "content": "b"}]},  # type: ignore[misc]
        400,
        "messages",
        "invalid_value",
        "system goes first",
    ),
    (CHAT, {**TALK, "tools": []}, 400, "tools", "unknown_parameter", "tools"),
    (CHAT, {**TALK, "top_logprobs": 2}, 400, None, "invalid_value", "needs logprobs=true"),
    (CHAT, {**TALK, "max_tokens": 2, "max_completion_tokens": 3}, 400, None, "invalid_value", "give one of them"),
    (
        CHAT,
        {**TALK, "messages": [{"role": "user", "content": "a " * 9000}]},
        400,
        "messages",
        "context_length_exceeded",
        "",
    ),
    (SCORE, {"inputs": []}, 400, "inputs", None, "inputs"),
    (SCORE, {"inputs": [{"text": ""}]}, 400, "inputs", "invalid_value", "empty"),
    (SCORE, {"inputs": [{"text": "a", "tokens": [1]}]}, 400, "inputs", "invalid_value", "either text or tokens"),
    (SCORE, {"inputs": [{"tokens": [270]}]}, 400, "inputs", "invalid_value", "token 270"),
    (SCORE, {"inputs": [{"text": "a " * 9000}]}, 400, None, "context_length_exceeded", ""),
    (TOKENIZE, {"text": 5}, 400, "text", "invalid_type", "got 5"),
    (TOKENIZE, {"texts": "a"}, 400, None, None, ""),
    ("/v1/models/nix/tokenize", {"text": "a"}, 404, "model", "model_not_found", "nix"),
    ("/v1/models/tiny/tokenize", {"text": "a"}, 400, None, "task_mismatch", "tiny"),
    (DETOKENIZE, {"tokens": [270]}, 400, "tokens", "invalid_value", "token 270"),
    (DETOKENIZE, {"tokens": [-1]}, 400, "tokens", None, "got -1"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "code", "words"), BAD)
def test_bad_input(
    texts: Client, path: str, body: Any, status: int, param: str | None, code: str | None, words: str
) -> None:
    response = texts.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": NaN}', b"\xff", b'{"a":1}x'])
def test_what_is_not_json(texts: Client, body: bytes) -> None:
    response = texts.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


def test_other_media_types_are_refused(texts: Client) -> None:
    response = texts.post(COMPLETIONS, content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_media"


def test_a_body_that_is_too_large(texts: Client) -> None:
    limit = texts.state.settings.max_body_bytes
    response = texts.post(COMPLETIONS, content=b" " * (limit + 1))
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_by_its_path(texts: Client) -> None:
    response = texts.get("/v1/models/gpt-4")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
