"""What the engine tells while a text grows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from service.errors import ServiceError

FinishReason = Literal["stop", "length"]
"""A stop string or token came or the constraint is met, or `max_tokens` did."""

Alternatives = tuple[tuple[int, float], ...]
"""The likeliest tokens and their log-probabilities, as the model alone sees them, likeliest first."""


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What the model says of a text, one entry for each token; the first has no log-probability.

    `greedy` tells whether the token is the likeliest after those before it. Tokens that were not asked for, and the
    first, have None, no alternatives, False.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    top: tuple[Alternatives, ...]
    greedy: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class GateRows:
    """Gate outputs of the graph by name, (positions, ...), for positions of the text from `first` on."""

    first: int
    values: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Timings:
    """How long an answer took, in seconds since it was asked for, and what it took; None where it never came so far."""

    queue_seconds: float | None
    first_token_seconds: float | None
    total_seconds: float
    prompt_tokens: int
    reused_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of an answer. The texts of a choice's events add up to its text.

    The last event of a choice has a `finish`, or an `error` and no token. `text` may be empty: a character may need
    more tokens, or what could become a stop string is held back. `top` are the likeliest tokens, before penalties,
    temperature and constraint. `gates` are those of the positions that were read for this token, if they were asked
    for. `prompt` stands in the first event of a request that asked for it, `timings` in each choice's last one.
    """

    choice: int
    token: int | None
    text: str = ""
    logprob: float | None = None
    top: Alternatives = ()
    finish: FinishReason | None = None
    error: ServiceError | None = None
    prompt: PromptScore | None = None
    gates: GateRows | None = None
    timings: Timings | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it for this choice."""
        return self.finish is not None or self.error is not None
