"""`/v1/chat/completions`: conversations, for models whose bundle has a chat template."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import json_response
from service.api.openai.chat_schema import ChatRequest
from service.api.openai.envelope import Envelope, respond
from service.api.openai.gates import AnswerGates, add_gates, plan_gates
from service.api.openai.logprobs import chat_row
from service.api.openai.parse import read
from service.api.openai.prompts import check_not_empty, encode_texts
from service.api.openai.running import merged, submit, unless_gone
from service.api.openai.usage import timings_member
from service.api.openai.wanted import find_model, generation
from service.api.sse import frame
from service.api.state import in_worker
from service.engine.generation.engine import Stream
from service.engine.generation.events import TokenEvent
from service.engine.generation.language import Language
from service.errors import InvalidFields, TaskMismatch
from service.repository import Loaded
from service.text import END_OF_TEXT, TextTokenizer


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, as OpenAI's API does: in one piece, or token by token with `stream`.

    For models whose bundle has a chat template; others are asked by `/v1/completions`. Messages are text; tools, images
    and sound are not there. Further fields are those of `/v1/completions`.
    """
    asked = await read(request, ChatRequest)
    model = find_model(request, asked.model, asked.version)
    with model.in_use():
        language, engine = model.language, model.language.engine
        tokens = await _prompt(request, asked, model.name, language)
        room = language.limits.slot_tokens - len(tokens)
        if room < 1:
            raise InvalidFields(
                f"this model's texts have at most {language.limits.slot_tokens} tokens: the messages have "
                f"{len(tokens)}; shorten them",
                field="messages",
                code="context_length_exceeded",
            )
        gates = plan_gates(request, model, asked, [tokens], asked.longest or room)
        wanted = await generation(
            request,
            asked,
            language,
            max_tokens=asked.longest or room,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            **(gates.options if gates is not None else {}),
        )
        streams = submit(engine, wanted, [tokens])
        kind = "chat.completion.chunk" if asked.stream else "chat.completion"
        envelope = Envelope(request, model, "chatcmpl", kind, [tokens], asked)
        pieces = _Pieces(asked, language.tokenizer, gates)
        if asked.stream:
            return await respond(request, _frames(model, streams, envelope, pieces))
        return json_response(await unless_gone(request, _whole(streams, envelope, pieces)))


async def _prompt(request: Request, asked: ChatRequest, name: str, language: Language) -> list[int]:
    """Return the tokens of the conversation."""
    if language.template is None:
        raise TaskMismatch(
            f"the bundle of {name!r} has no chat template, so it is no chat model; use /v1/completions",
            field="model",
            code="no_chat_template",
        )
    tokenizer = language.tokenizer
    messages = [message.model_dump(exclude_none=True) for message in asked.messages]
    end = END_OF_TEXT if tokenizer.end_of_text is not None else ""
    work = partial(language.template.render, messages, end_of_text=end, begins_answer=asked.add_generation_prompt)
    (tokens,) = await encode_texts(request, tokenizer, [await in_worker(request, work)])
    check_not_empty(tokens, "messages")
    return tokens


class _Pieces:
    """Turns events into parts of choices."""

    def __init__(self, asked: ChatRequest, tokenizer: TextTokenizer, gates: AnswerGates | None) -> None:
        self._gates = gates
        self._asked = asked
        self._tokenizer = tokenizer

    def piece(self, event: TokenEvent) -> dict[str, Any]:
        """Return what an event adds to its choice."""
        logprobs = None
        if self._asked.logprobs:
            has_row = event.token is not None and event.logprob is not None
            rows = [chat_row(self._tokenizer, event.token, event.logprob, event.top)] if has_row else []  # type: ignore[arg-type]
            logprobs = {"content": rows}
        found = {"index": event.choice, "text": event.text, "logprobs": logprobs, "finish_reason": event.finish}
        if self._asked.timings and event.timings is not None:
            found["timings"] = timings_member(event.timings)
        if self._gates is not None:
            found["gates"] = self._gates.member(event.choice, 0, event)
        return found


async def _whole(streams: list[Stream], envelope: Envelope, pieces: _Pieces) -> dict[str, Any]:
    choices: dict[int, dict[str, Any]] = {}
    async with aclosing(merged(streams)) as events:
        async for prompt, event in events:
            envelope.count(prompt, event)
            piece = pieces.piece(event)
            known = choices.setdefault(event.choice, {"message": {"role": "assistant", "content": ""}, **piece})
            known["message"]["content"] += piece.pop("text")
            if known.pop("text", None) is None:
                if piece["logprobs"] is not None:
                    known["logprobs"]["content"] += piece["logprobs"]["content"]
                if "gates" in piece:
                    add_gates(known["gates"], piece["gates"])
                known.update({name: piece[name] for name in ("finish_reason", "timings") if name in piece})
    return envelope.whole([choice for _, choice in sorted(choices.items())])


async def _frames(
    model: Loaded, streams: list[Stream], envelope: Envelope, pieces: _Pieces
) -> AsyncGenerator[bytes, None]:
    seen: set[int] = set()
    with model.in_use():
        async with aclosing(merged(streams)) as events:
            async for prompt, event in events:
                envelope.count(prompt, event)
                piece = pieces.piece(event)
                text = piece.pop("text")
                if event.choice not in seen:
                    seen.add(event.choice)
                    first = {"index": event.choice, "delta": {"role": "assistant", "content": ""}}
                    yield frame(envelope.chunk([{**first, "logprobs": None, "finish_reason": None}]))
                if text or piece["logprobs"] is not None or piece["finish_reason"] is not None or piece.get("gates"):
                    yield frame(envelope.chunk([{**piece, "delta": {"content": text} if text else {}}]))
        for last in envelope.end():
            yield last
