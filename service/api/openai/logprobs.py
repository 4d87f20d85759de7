"""Log-probabilities in the two forms that OpenAI gives them: for completions, and for chats."""

from typing import Any

from service.api.openai.prompts import token_name
from service.engine.generation.events import PromptScore, TokenEvent
from service.text import TextTokenizer

_LEAST = -9999.0
"""What stands for minus infinity, which JSON has not."""

Top = tuple[tuple[int, float], ...]


class CompletionLogprobs:
    """Writes the parallel lists of completions."""

    def __init__(self, tokenizer: TextTokenizer | None) -> None:
        """Take the tokenizer that names the tokens."""
        self._tokenizer = tokenizer

    def of_event(self, event: TokenEvent, offset: int) -> dict[str, list[Any]]:
        """Return the lists for one token of an answer, which begins at `offset` of the text."""
        if event.token is None or event.logprob is None:
            return _lists()
        return _lists([self._row(event.token, event.logprob, event.top, offset)])

    def of_prompt(self, score: PromptScore) -> dict[str, list[Any]]:
        """Return the lists for the tokens of a prompt; the first has no log-probability."""
        detokenizer = None if self._tokenizer is None else self._tokenizer.detokenizer()
        rows, offset = [], 0
        for token, logprob, top in zip(score.tokens, score.logprobs, score.top, strict=True):
            rows.append(self._row(token, logprob, top, offset))
            offset += 0 if detokenizer is None else len(detokenizer.add(token))
        return _lists(rows)

    def _row(self, token: int, logprob: float | None, top: Top, offset: int) -> tuple[Any, ...]:
        name = token_name(self._tokenizer, token)
        if logprob is None:
            return name, None, None, offset
        # Tokens may have the same text: the likeliest keeps its place. The token itself is there in any case.
        likely: dict[str, float] = {}
        for other, value in (*top, (token, logprob)):
            likely.setdefault(token_name(self._tokenizer, other), max(value, _LEAST))
        return name, max(logprob, _LEAST), likely, offset


def chat_row(tokenizer: TextTokenizer | None, token: int, logprob: float, top: Top) -> dict[str, Any]:
    """Return a token of a chat's answer with its alternatives."""
    return {
        **_chat_token(tokenizer, token, logprob),
        "top_logprobs": [_chat_token(tokenizer, other, value) for other, value in top],
    }


def _chat_token(tokenizer: TextTokenizer | None, token: int, logprob: float) -> dict[str, Any]:
    name = token_name(tokenizer, token)
    raw = None if tokenizer is None else tokenizer.token_bytes(token)
    return {"token": name, "logprob": max(logprob, _LEAST), "bytes": list(name.encode() if raw is None else raw)}


def _lists(rows: list[tuple[Any, ...]] | None = None) -> dict[str, list[Any]]:
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
