"""From what a request names to a model's tokens, and from tokens to pieces of text that JSON can hold."""

from functools import partial

from starlette.requests import Request

from service.api.state import in_worker
from service.engine.generation.language import Language
from service.errors import InvalidFields, TaskMismatch
from service.text import TextTokenizer

_INLINE_CHARACTERS = 8 * 1024


async def encode_texts(
    request: Request, tokenizer: TextTokenizer, texts: list[str], *, special_tokens: bool = False
) -> list[list[int]]:
    """Return the tokens of each text; long ones are cut into tokens in a worker."""
    work = partial(_encode, tokenizer, texts, special_tokens)
    return work() if sum(map(len, texts)) <= _INLINE_CHARACTERS else await in_worker(request, work)


def check_tokens(tokens: list[int], language: Language, field: str) -> None:
    """Hold token numbers to the vocabulary.

    Raises:
        InvalidFields: one is outside.
    """
    vocabulary = language.task.vocabulary
    if tokens and max(tokens) >= vocabulary:
        raise InvalidFields(
            f"{field} has token {max(tokens)}, the vocabulary ends at {vocabulary - 1}",
            field=field,
            code="invalid_value",
        )


def check_not_empty(tokens: list[int], field: str) -> None:
    """Refuse a text without tokens.

    Raises:
        InvalidFields: there is nothing to begin with.
    """
    if not tokens:
        raise InvalidFields(
            f"{field} is empty: give at least one token, or the end of text to begin a new one",
            field=field,
            code="invalid_value",
        )


def token_name(tokenizer: TextTokenizer | None, token: int) -> str:
    r"""Return the text of one token alone; `bytes:\xNN` for half a character, `token_id:N` without a tokenizer."""
    if tokenizer is None:
        return f"token_id:{token}"
    raw = tokenizer.token_bytes(token)
    if raw is None or not raw:
        return tokenizer.token_text(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _encode(tokenizer: TextTokenizer, texts: list[str], special_tokens: bool) -> list[list[int]]:
    return [tokenizer.encode(text, special_tokens=special_tokens) for text in texts]


def tokenizer_or_none(language: Language) -> TextTokenizer | None:
    """Return the model's tokenizer, if its bundle has one."""
    try:
        return language.tokenizer
    except TaskMismatch:
        return None
