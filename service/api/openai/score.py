"""Likelihoods of given texts, for evaluation harnesses."""

import asyncio
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.openai.fields import Asked, Token
from service.api.openai.parse import read
from service.api.openai.prompts import check_not_empty, check_tokens, encode_texts, tokenizer_or_none
from service.api.openai.running import unless_gone
from service.api.openai.wanted import find_model
from service.engine.generation.events import PromptScore
from service.engine.generation.language import Language
from service.engine.generation.request import MAX_LOGPROBS
from service.errors import InvalidFields

MAX_INPUTS = 256


class ScoreInput(Asked):
    """A text as text or as tokens, not both; with a context, what stands before it and is not scored itself."""

    text: str | None = None
    tokens: list[Token] | None = None
    context: str | None = None
    context_tokens: list[Token] | None = None


class ScoreRequest(Asked):
    """Texts to be scored."""

    inputs: list[ScoreInput] = Field(min_length=1, max_length=MAX_INPUTS)
    version: str | None = Field(None, max_length=64)
    top: Annotated[int, Field(ge=0, le=MAX_LOGPROBS, description="so many of the likeliest tokens at each place")] = 0
    per_token: bool = Field(True, description="tell each token; without it sums alone")
    begin: bool = Field(True, description="an end of text in front of a text without context, so that all of it counts")
    priority: int = Field(0, ge=0, lt=2**31, description="1 goes first; 0 is the middle")
    timeout: float | None = Field(None, gt=0, le=86_400, description="longest time in the queue, in seconds; then 504")


class Alternative(Answer):
    """A token and its log-probability."""

    id: int
    logprob: float


class Score(Answer):
    """What the model thinks of one text.

    `logprob` is the sum over the `scored` tokens, in nats, `is_greedy` whether each was the likeliest. A token without
    anything before it has no log-probability and is not scored. `bytes` are those of the scored tokens' text.
    """

    logprob: float
    is_greedy: bool
    scored: int
    bytes: int | None
    tokens: list[int] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[list[Alternative]] | None = None


class ScoreResponse(Answer):
    """The scores, in the order of the inputs."""

    model: str
    version: str
    results: list[Score]
    prompt_tokens: int


async def score(request: Request, name: str) -> Response:
    """Tell how likely given texts are: log-probabilities of their tokens, sums, whether greedy decoding gives them.

    A context is read before and not scored. Where context and text are both text they are cut into tokens together, as
    evaluation harnesses do, so that spaces between them are no matter.
    """
    asked = await read(request, ScoreRequest)
    model = find_model(request, name, asked.version)
    with model.in_use():
        language = model.language
        pairs = [await _tokens(request, one, language, begin=asked.begin) for one in asked.inputs]
        request.state.tokens = counts = {"prompt_tokens": sum(len(tokens) for tokens, _ in pairs)}
        found = await unless_gone(request, _scores(request, asked, language, pairs))
        results = [_result(language, asked, scored, start) for (_, start), scored in zip(pairs, found, strict=True)]
    return json_response({"model": model.name, "version": model.version, "results": results, **counts})


async def _tokens(request: Request, given: ScoreInput, language: Language, *, begin: bool) -> tuple[list[int], int]:
    """Return all tokens of an input, and where those begin that are to be scored."""
    if (given.text is None) == (given.tokens is None):
        raise _invalid("needs either text or tokens")
    if given.context is not None and given.context_tokens is not None:
        raise _invalid("takes either context or context_tokens")
    own = [*(given.context_tokens or ()), *(given.tokens or ())]
    check_tokens(own, language, "inputs")
    if given.text is not None and given.context is not None:
        # The blanks at the end of a context belong to the word behind them.
        head = given.context.rstrip()
        tail = given.context[len(head) :] + given.text
        (whole, before) = await encode_texts(request, language.tokenizer, [head + tail, head])
        context, text = whole[: len(before)], whole[len(before) :]
    else:
        context, text = given.context_tokens or [], given.tokens or []
        if given.text is not None:
            (text,) = await encode_texts(request, language.tokenizer, [given.text])
        if given.context is not None:
            (context,) = await encode_texts(request, language.tokenizer, [given.context])
    check_not_empty(text, "inputs")
    tokenizer = tokenizer_or_none(language)
    if not context and begin and tokenizer is not None and tokenizer.end_of_text is not None:
        context = [tokenizer.end_of_text]
    return context + text, len(context)


async def _scores(
    request: Request, asked: ScoreRequest, language: Language, pairs: list[tuple[list[int], int]]
) -> list[PromptScore]:
    caller = request.state.caller.account
    wait = {"caller": caller, "priority": asked.priority, "deadline_seconds": asked.timeout}
    tasks = [
        asyncio.ensure_future(language.score(tuple(tokens), top=asked.top, start=max(1, start), **wait))
        for tokens, start in pairs
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _result(language: Language, asked: ScoreRequest, found: PromptScore, start: int) -> dict[str, Any]:
    first = max(1, start)
    known = [logprob for logprob in found.logprobs[first:] if logprob is not None]
    tokenizer = tokenizer_or_none(language)
    result: dict[str, Any] = {
        "logprob": sum(known),
        "is_greedy": all(found.greedy[first:]),
        "scored": len(known),
        "bytes": None if tokenizer is None else len(tokenizer.decode(found.tokens[first:]).encode()),
    }
    if asked.per_token:
        result |= {"tokens": list(found.tokens[start:]), "token_logprobs": list(found.logprobs[start:])}
    if asked.top:
        result["top_logprobs"] = [
            [{"id": token, "logprob": logprob} for token, logprob in row] for row in found.top[start:]
        ]
    return result


def _invalid(sentence: str) -> InvalidFields:
    return InvalidFields(f"inputs: each {sentence}", field="inputs", code="invalid_value")
