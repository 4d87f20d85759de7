import json
from pathlib import Path
from typing import Any

import pytest

from service.chat import LONGEST_PROMPT, LONGEST_TEMPLATE, ChatTemplate
from service.errors import BundleInvalid, InvalidFields
from tests.service.conftest import Client
from tests.service.openai.conftest import chunks

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a delta"}]
PROMPT = "system: be brief\nuser: a delta\nassistant:"


def ask(texts: Client, **fields: Any) -> Any:
    body = {"model": "talk", "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 7, **fields}
    response = texts.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response


def test_an_answer_is_the_continuation_of_what_the_template_makes(texts: Client) -> None:
    answer = ask(texts).json()
    body = {"model": "talk", "prompt": PROMPT, "temperature": 0, "max_tokens": 7}
    same = texts.post("/v1/completions", json=body).json()
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": same["choices"][0]["text"]}
    assert choice["finish_reason"] == "length"
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == same["usage"]["prompt_tokens"]


def test_parts_of_text_are_one_text(texts: Client) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "delta"}]
    messages = [MESSAGES[0], {"role": "user", "content": parts}]
    assert ask(texts, messages=messages).json()["choices"] == ask(texts).json()["choices"]


def test_a_stream_adds_up(texts: Client) -> None:
    fields = {"n": 2, "temperature": 1, "seed": 4, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    whole = ask(texts, **fields).json()["choices"]
    parts = chunks(ask(texts, stream=True, **fields).text)
    assert all(part["object"] == "chat.completion.chunk" for part in parts)
    for choice in whole:
        own = [c for part in parts for c in part["choices"] if c["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in own) == choice["message"]["content"]
        rows = [row for c in own if c["logprobs"] for row in c["logprobs"]["content"]]
        assert rows == choice["logprobs"]["content"]
        assert len(rows) == 7
        assert all(len(row["top_logprobs"]) == 2 for row in rows)
        spelled = b"".join(bytes(row["bytes"]) for row in rows)
        assert spelled.decode(errors="replace") == choice["message"]["content"]
        assert own[-1]["finish_reason"] == "length"


def test_without_a_limit_an_answer_may_fill_the_room(texts: Client) -> None:
    answer = ask(texts, max_completion_tokens=None, ignore_eos=True).json()
    assert answer["usage"]["total_tokens"] == 256


def render(source: str, *messages: dict[str, Any]) -> str:
    return ChatTemplate(source).render(messages, end_of_text="<end>", begins_answer=True)


def test_templates_see_messages_and_words_of_the_tokenizer() -> None:
    source = "{% for m in messages %}{{ m.role }}={{ m | tojson }}{{ eos_token }}{% break %}{% endfor %}"
    assert render(source, MESSAGES[0], MESSAGES[1]) == f"system={json.dumps(MESSAGES[0])}<end>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ raise_exception('no') }}",
        "{{ unknown }}",
        "{{ 1 // 0 }}",
        "{{ messages[7].content }}",
        "{% include 'x' %}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(99999) %}{{ '" + "x" * 1000 + "' }}{% endfor %}",
    ],
)
def test_templates_cannot_leave_their_sandbox(source: str) -> None:
    with pytest.raises(InvalidFields, match="messages: ") as raised:
        render(source, MESSAGES[0])
    assert raised.value.details["field"] == "messages"


def test_a_prompt_has_a_longest_length() -> None:
    with pytest.raises(InvalidFields, match=str(LONGEST_PROMPT)):
        render("{% for i in range(5) %}{{ messages[0].content }}{% endfor %}", {"content": "x" * 1_000_000})


@pytest.mark.parametrize("source", ["{% for %}", "{{", "x" * (LONGEST_TEMPLATE + 1)])
def test_a_template_that_cannot_be_read_is_a_fault_of_the_bundle(source: str, tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_text(source)
    with pytest.raises(BundleInvalid, match="chat template"):
        ChatTemplate.read(path)
