"""What a request has used: tokens for everybody, times for those who ask."""

from typing import Any

from service.api.answers import Answer
from service.engine.generation.events import Timings as EngineTimings


class PromptTokens(Answer):
    """How many tokens of the prompts were in the cache already."""

    cached_tokens: int


class Usage(Answer):
    """Tokens of the prompts and of the answers that are told."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class Timings(Answer):
    """Milliseconds of one answer: in the queue, reading the prompt, until the first token and the last, per token.

    What it never came to is null.
    """

    queue_ms: float | None
    prefill_ms: float | None
    first_token_ms: float | None
    total_ms: float
    per_token_ms: float | None


class Gates(Answer):
    """What the rewrites did: sites and quantities, then the prompt, each token, and means over all of them.

    In a stream the parts come one by one, as they are known.
    """

    meta: dict[str, Any] | None = None
    prefill: dict[str, Any] | None = None
    tokens: list[dict[str, Any]] | None = None
    summary: dict[str, Any] | None = None


class Counter:
    """Counts the tokens of one request; `counts` is for the access log, and right at any time."""

    def __init__(self, prompts: list[int]) -> None:
        """Begin with the lengths of the prompts."""
        self.counts = {"prompt_tokens": sum(prompts), "cached_tokens": 0, "completion_tokens": 0}
        self._seen: set[int] = set()

    def count(self, prompt: int, token: int | None, timings: EngineTimings | None) -> None:
        """Book an event of the answers to a prompt; the first answer says what was in the cache."""
        self.counts["completion_tokens"] += token is not None
        if timings is not None and prompt not in self._seen:
            self._seen.add(prompt)
            self.counts["cached_tokens"] += timings.reused_tokens

    def usage(self) -> dict[str, Any]:
        """Return the usage."""
        prompt, answer = self.counts["prompt_tokens"], self.counts["completion_tokens"]
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": self.counts["cached_tokens"]},
        }


def timings_member(timings: EngineTimings) -> dict[str, float | None]:
    """Return an answer's times in milliseconds."""
    queue, first = timings.queue_seconds, timings.first_token_seconds
    rest = timings.answer_tokens - 1
    return {
        "queue_ms": None if queue is None else _ms(queue),
        "prefill_ms": None if first is None or queue is None else _ms(first - queue),
        "first_token_ms": None if first is None else _ms(first),
        "total_ms": _ms(timings.total_seconds),
        "per_token_ms": None if first is None or rest < 1 else _ms((timings.total_seconds - first) / rest),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
