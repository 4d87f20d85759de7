"""`/v1/completions`: texts that go on from prompts."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import json_response
from service.api.openai.completion_schema import CompletionRequest
from service.api.openai.envelope import Envelope, respond
from service.api.openai.gates import AnswerGates, add_gates, plan_gates
from service.api.openai.logprobs import CompletionLogprobs
from service.api.openai.parse import read
from service.api.openai.prompts import check_not_empty, check_tokens, encode_texts, tokenizer_or_none
from service.api.openai.running import merged, submit, unless_gone
from service.api.openai.usage import timings_member
from service.api.openai.wanted import find_model, generation
from service.api.sse import frame
from service.engine.generation.engine import Stream
from service.engine.generation.events import PromptScore, TokenEvent
from service.engine.generation.language import Language
from service.repository import Loaded

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
            return await respond(request, _frames(model, streams, envelope, pieces))
        return json_response(await unless_gone(request, _whole(streams, envelope, pieces)))


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
    """Turns events into parts of choices."""

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
        found = {"index": index, "text": start + text, "logprobs": logprobs, "finish_reason": event.finish}
        if self.asked.timings and event.timings is not None:
            found["timings"] = timings_member(event.timings)
        if self.gates is not None:
            found["gates"] = self.gates.member(index, prompt, event)
        return found


async def _whole(streams: list[Stream], envelope: Envelope, pieces: _Pieces) -> dict[str, Any]:
    choices: dict[int, dict[str, Any]] = {}
    async with aclosing(merged(streams)) as events:
        async for prompt, event in events:
            envelope.count(prompt, event)
            piece = pieces.piece(prompt, event)
            known = choices.setdefault(piece["index"], piece)
            if known is not piece:
                known["text"] += piece["text"]
                for name, values in (known["logprobs"] or {}).items():
                    values += piece["logprobs"][name]
                if "gates" in piece:
                    add_gates(known["gates"], piece["gates"])
                known.update({name: piece[name] for name in ("finish_reason", "timings") if name in piece})
    return envelope.whole([choice for _, choice in sorted(choices.items())])


async def _frames(
    model: Loaded, streams: list[Stream], envelope: Envelope, pieces: _Pieces
) -> AsyncGenerator[bytes, None]:
    with model.in_use():
        async with aclosing(merged(streams)) as events:
            async for prompt, event in events:
                envelope.count(prompt, event)
                piece = pieces.piece(prompt, event)
                if (
                    piece["text"]
                    or piece["logprobs"] is not None
                    or piece["finish_reason"] is not None
                    or piece.get("gates")
                ):
                    yield frame(envelope.chunk([piece]))
        for last in envelope.end():
            yield last
