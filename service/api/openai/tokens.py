"""Texts to tokens and back, by a model's own tokenizer."""

from functools import partial

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.openai.fields import Asked, Token
from service.api.openai.parse import read
from service.api.openai.prompts import check_tokens, encode_texts, token_name
from service.api.openai.wanted import find_model
from service.api.state import in_worker


class TokenizeRequest(Asked):
    """A text to be cut into tokens."""

    text: str
    version: str | None = Field(None, max_length=64)
    add_special_tokens: bool = Field(False, description="put the tokenizer's own tokens around the text")
    pieces: bool = Field(False, description="tell the text of each token too")


class Tokenized(Answer):
    """The tokens of a text; `max_tokens` is the longest text, prompt and answer, that the model takes here."""

    model: str
    version: str
    tokens: list[int]
    count: int
    max_tokens: int
    pieces: list[str] | None = None


class DetokenizeRequest(Asked):
    """Tokens to be put together to a text."""

    tokens: list[Token]
    version: str | None = Field(None, max_length=64)
    skip_special_tokens: bool = Field(False, description="leave out tokens that are no text, like the end of text")


class Detokenized(Answer):
    """The text of tokens; bytes that are no character are U+FFFD."""

    model: str
    version: str
    text: str


async def tokenize(request: Request, name: str) -> Response:
    """Cut a text into the model's tokens."""
    asked = await read(request, TokenizeRequest)
    model = find_model(request, name, asked.version)
    language = model.language
    tokenizer = language.tokenizer
    (tokens,) = await encode_texts(request, tokenizer, [asked.text], special_tokens=asked.add_special_tokens)
    answer = {
        "model": model.name,
        "version": model.version,
        "tokens": tokens,
        "count": len(tokens),
        "max_tokens": language.limits.slot_tokens,
    }
    return json_response(
        answer | {"pieces": [token_name(tokenizer, token) for token in tokens]} if asked.pieces else answer
    )


async def detokenize(request: Request, name: str) -> Response:
    """Put tokens together to their text."""
    asked = await read(request, DetokenizeRequest)
    model = find_model(request, name, asked.version)
    language = model.language
    check_tokens(asked.tokens, language, "tokens")
    text = await in_worker(
        request, partial(language.tokenizer.decode, asked.tokens, skip_special=asked.skip_special_tokens)
    )
    return json_response({"model": model.name, "version": model.version, "text": text})
