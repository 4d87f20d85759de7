"""`/v1/chat/completions`: conversations, for models whose bundle has a chat template."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import json_response
from service.api.openai.chat_schema import ChatRequest
from service.api.openai.envelope import Envelope, respond
from service.api.openai.gates import AnswerGates, plan_gates
from service.api.openai.logprobs import chat_row
from service.api.openai.parse import read
from service.api.openai.pieces import frames, make_piece, tells, whole
from service.api.openai.prompts import check_not_empty, encode_texts
from service.api.openai.running import submit, unless_gone
from service.api.openai.wanted import find_model, generation
from service.api.state import in_worker
from service.engine.generation.events import TokenEvent
from service.engine.generation.language import Language
from service.errors import InvalidFields, TaskMismatch
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
            return await respond(request, frames(model, streams, envelope, pieces))
        return json_response(await unless_gone(request, whole(streams, envelope, pieces)))


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
    """See `service.api.openai.pieces`: messages of an assistant."""

    def __init__(self, asked: ChatRequest, tokenizer: TextTokenizer, gates: AnswerGates | None) -> None:
        self._gates = gates
        self._asked = asked
        self._tokenizer = tokenizer
        self._begun: set[int] = set()

    def piece(self, prompt: int, event: TokenEvent) -> dict[str, Any]:
        """See `Pieces`."""
        logprobs = None
        if self._asked.logprobs:
            has_row = event.token is not None and event.logprob is not None
            rows = [chat_row(self._tokenizer, event.token, event.logprob, event.top)] if has_row else []  # type: ignore[arg-type]
            logprobs = {"content": rows}
        return make_piece(self._asked, self._gates, (event.choice, prompt), event, event.text, logprobs)

    def choice(self, whole: dict[str, Any]) -> dict[str, Any]:
        """See `Pieces`."""
        return {"message": {"role": "assistant", "content": whole.pop("text")}, **whole}

    def parts(self, piece: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `Pieces`: the first part of a choice says whose message it is."""
        index, is_told = piece["index"], tells(piece)
        if index not in self._begun:
            self._begun.add(index)
            first = {"index": index, "delta": {"role": "assistant", "content": ""}}
            yield {**first, "logprobs": None, "finish_reason": None}
        if is_told:
            text = piece.pop("text")
            yield {**piece, "delta": {"content": text} if text else {}}
