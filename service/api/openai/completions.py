"""`/v1/completions`: texts that go on from prompts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import json_response
from service.api.openai.completion_schema import CompletionRequest
from service.api.openai.envelope import Envelope, respond
from service.api.openai.gates import AnswerGates, plan_gates
from service.api.openai.logprobs import CompletionLogprobs
from service.api.openai.parse import read
from service.api.openai.pieces import frames, make_piece, tells, whole
from service.api.openai.prompts import check_not_empty, check_tokens, encode_texts, tokenizer_or_none
from service.api.openai.running import submit, unless_gone
from service.api.openai.wanted import find_model, generation
from service.engine.generation.events import PromptScore, TokenEvent
from service.engine.generation.language import Language

_MAX_TOKENS = 16
"""Longest answer where a request does not say, as in OpenAI's API."""


async def create_completion(request: Request) -> Response:
    """Continue prompts, as OpenAI's API does: in one answer, or token by token with `stream`.

    A prompt is a text or token ids. Fields that are not known are refused. Beside OpenAI's there are `top_k`, `min_p`,
    `repetition_penalty`, `min_tokens`, `stop_token_ids`, `ignore_eos`, `structured_outputs`, `priority`, `timeout` and
    `timings`. Errors have OpenAI's object `error`; one that comes after the stream began is its last event.
    """
    asked = await read(request, CompletionRequest)
    model = find_model(request, asked.model, asked.version)
    with model.in_use():
        language, engine = model.language, model.language.engine
        texts, prompts = await _prompts(request, asked, language)
        longest = _MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
        gates = plan_gates(request, model, asked, prompts, longest)
        wanted = await generation(
            request,
            asked,
            language,
            max_tokens=longest,
            best_of=asked.best_of,
            logprobs=asked.logprobs,
            prompt_logprobs=_prompt_logprobs(asked),
            **(gates.options if gates is not None else {}),
        )
        streams = submit(engine, wanted, prompts)
        envelope = Envelope(request, model, "cmpl", "text_completion", prompts, asked)
        pieces = _Pieces(asked, CompletionLogprobs(tokenizer_or_none(language)), texts, gates)
        if asked.stream:
            return await respond(request, frames(model, streams, envelope, pieces))
        return json_response(await unless_gone(request, whole(streams, envelope, pieces)))


async def _prompts(request: Request, asked: CompletionRequest, language: Language) -> tuple[list[str], list[list[int]]]:
    """Return the prompts as texts, where they are echoed, and as tokens."""
    tokenizer = tokenizer_or_none(language)
    if asked.logprobs is None and tokenizer is None:
        tokenizer = language.tokenizer  # there would be nothing to tell: it says so
    texts = [prompt for prompt in asked.prompt if isinstance(prompt, str)]
    if texts:
        prompts = await encode_texts(request, language.tokenizer, texts, special_tokens=asked.add_special_tokens)
    else:
        prompts = [prompt for prompt in asked.prompt if not isinstance(prompt, str)]
        if asked.echo and tokenizer is not None:
            texts = [tokenizer.decode(prompt, skip_special=False) for prompt in prompts]
    for prompt in prompts:
        check_not_empty(prompt, "prompt")
        check_tokens(prompt, language, "prompt")
    return texts or [""] * len(prompts), prompts


def _prompt_logprobs(asked: CompletionRequest) -> int | None:
    """Return how many alternatives are wanted for the prompt; without an answer there is only the prompt to run."""
    return (asked.logprobs or 0) if asked.echo and (asked.logprobs is not None or asked.max_tokens == 0) else None


@dataclass
class _Pieces:
    """See `service.api.openai.pieces`: texts, with what is known of their tokens."""

    asked: CompletionRequest
    logprobs: CompletionLogprobs
    texts: list[str]
    gates: AnswerGates | None
    lengths: dict[int, int] = field(default_factory=dict)
    scores: dict[int, PromptScore] = field(default_factory=dict)

    def piece(self, prompt: int, event: TokenEvent) -> dict[str, Any]:
        """Return what an event adds to its choice; the first one of each has the prompt in front, if that is echoed."""
        index = prompt * (self.asked.n or 1) + event.choice
        if event.prompt is not None:
            self.scores[prompt] = event.prompt
        is_first, text = index not in self.lengths, event.text
        start = self.texts[prompt] if is_first and self.asked.echo else ""
        offset = self.lengths.get(index, 0) + len(start)
        self.lengths[index] = offset + len(text)
        logprobs = None
        if self.asked.logprobs is not None:
            logprobs = self.logprobs.of_event(event, offset)
            if is_first and prompt in self.scores:
                before = self.logprobs.of_prompt(self.scores[prompt])
                logprobs = {name: before[name] + logprobs[name] for name in before}
        return make_piece(self.asked, self.gates, (index, prompt), event, start + text, logprobs)

    def choice(self, whole: dict[str, Any]) -> dict[str, Any]:
        """See `Pieces`."""
        return whole

    def parts(self, piece: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `Pieces`."""
        if tells(piece):
            yield piece
