"""Checks of OpenAI's client, synchronous and asynchronous, with streams and without."""

import asyncio
import re
import time
import urllib.request

import openai
from checks import HTTP, refused, run
from pydantic import BaseModel

BASE = f"http://{HTTP}/v1"
CLIENT = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0)
ASK = {"model": "words", "prompt": "a delta rule", "temperature": 0, "max_tokens": 8}
LONG = {**ASK, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
MESSAGES = [{"role": "user", "content": "a delta"}]
TALK = {"model": "talk", "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 8}


def asynchronous(call):
    async def go():
        async with openai.AsyncOpenAI(base_url=BASE, api_key="none", max_retries=0) as client:
            return await call(client)

    return asyncio.run(go())


def growing():
    """Return how many answers grow in the service."""
    with urllib.request.urlopen(f"http://{HTTP}/metrics", timeout=10) as response:
        lines = response.read().decode()
    return sum(float(value) for value in re.findall(r"^ddl_generation_running\{.*\} (\S+)$", lines, re.MULTILINE))


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_models():
    assert {model.id for model in CLIENT.models.list()} == {"words", "talk", "tiny"}
    model = CLIENT.models.retrieve("words")
    assert (model.id, model.object) == ("words", "model")
    assert model.created > 0


def check_completion():
    answer = CLIENT.completions.create(**ASK)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def check_completion_stream():
    whole = CLIENT.completions.create(**ASK)
    chunks = list(CLIENT.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == 8
    assert chunks[-1].choices == []


def check_completion_async():
    whole = CLIENT.completions.create(**ASK).choices[0].text
    assert asynchronous(lambda client: client.completions.create(**ASK)).choices[0].text == whole


def check_completion_async_stream():
    async def text(client):
        stream = await client.completions.create(**ASK, stream=True)
        return "".join([choice.text async for chunk in stream for choice in chunk.choices])

    assert asynchronous(text) == CLIENT.completions.create(**ASK).choices[0].text


def check_many_at_once():
    async def texts(client):
        calls = [client.completions.create(**{**ASK, "max_tokens": 3 + i}) for i in range(20)]
        return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    found = asynchronous(texts)
    # An answer that ends in half a character has U+FFFD for it.
    assert all(found[-1].startswith(text.rstrip("\ufffd")) for text in found)


def check_options():
    answer = CLIENT.completions.create(
        **{**ASK, "prompt": ["a delta", "leaves all"], "temperature": 1},
        n=2,
        seed=3,
        logprobs=2,
        echo=True,
        stop=["zz"],
        logit_bias={"5": -100},
        presence_penalty=0.5,
        frequency_penalty=0.5,
        top_p=0.9,
        user="somebody",
        extra_body={"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1, "timings": True, "priority": 1},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text.startswith("a delta")
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    assert len(logprobs.top_logprobs[-1]) in (2, 3)
    assert answer.choices[0].timings["first_token_ms"] > 0


def check_chat():
    answer = CLIENT.chat.completions.create(**TALK, logprobs=True, top_logprobs=3)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    rows = answer.choices[0].logprobs.content
    assert len(rows) == 8
    assert len(rows[0].top_logprobs) == 3


def check_chat_stream():
    whole = CLIENT.chat.completions.create(**TALK).choices[0].message.content
    chunks = list(CLIENT.chat.completions.create(**TALK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "length"


def check_chat_stream_helper():
    given = {"structured_outputs": {"choice": ["yes"]}}
    with CLIENT.chat.completions.stream(**TALK, extra_body=given) as stream:
        events = [event.type for event in stream]
    assert "content.delta" in events
    (choice,) = stream.get_final_completion().choices
    assert (choice.message.content, choice.finish_reason) == ("yes", "stop")


def check_chat_async_stream():
    async def text(client):
        stream = await client.chat.completions.create(**TALK, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asynchronous(text) == CLIENT.chat.completions.create(**TALK).choices[0].message.content


def check_parsed_answer():
    class Verdict(BaseModel):
        holds: bool

    answer = CLIENT.chat.completions.parse(**{**TALK, "max_completion_tokens": 40}, response_format=Verdict)
    assert answer.choices[0].message.parsed.holds in (True, False)


def check_errors():
    error = refused(lambda: CLIENT.completions.create(**{**ASK, "model": "gpt-4"}), "gpt-4")
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found"
    error = refused(lambda: CLIENT.completions.create(**{**ASK, "temperature": -1}), "temperature", "-1")
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.type) == ("temperature", "invalid_request_error")
    error = refused(lambda: CLIENT.completions.create(**{**ASK, "max_tokens": 10**6}))
    assert error.code == "context_length_exceeded"
    error = refused(lambda: CLIENT.chat.completions.create(**{**TALK, "model": "words"}), "chat template")
    assert isinstance(error, openai.BadRequestError)
    error = refused(lambda: CLIENT.completions.create(**ASK, extra_body={"unheard": 1}), "unheard")
    assert error.code == "unknown_parameter"
    error = refused(lambda: CLIENT.completions.create(**ASK, extra_body={"timeout": 1e-9}, stream=True))
    assert isinstance(error, openai.InternalServerError)
    assert error.status_code == 504


def check_closing_a_stream_frees_its_slot():
    stream = CLIENT.completions.create(**LONG, stream=True)
    next(iter(stream))
    assert growing() == 1
    stream.close()
    wait_until(lambda: growing() == 0)


def check_cancelling_an_answer_frees_its_slot():
    async def test(client):
        task = asyncio.create_task(client.completions.create(**LONG))
        await asyncio.to_thread(wait_until, growing)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asynchronous(test)
    wait_until(lambda: growing() == 0)


if __name__ == "__main__":
    run(globals())
