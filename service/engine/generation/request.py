"""What is asked of the engine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.engine.generation.constraint import Constraint
from service.errors import InvalidFields

MAX_CHOICES = 64
MAX_LOGPROBS = 20
MAX_STOPS = 16


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn from the logits, in this order.

    Args:
        repetition_penalty: divides positive logits of tokens seen in prompt or answer, multiplies negative ones.
        frequency_penalty: taken from a logit for each time that the answer has the token.
        presence_penalty: taken from a logit once the answer has the token.
        logit_bias: added to the logits of tokens.
        temperature: divides the logits; 0 takes the largest logit, and what follows is without effect.
        top_k: only the k largest remain; 0 is all.
        top_p: only the fewest likeliest tokens that together have this probability remain.
        min_p: only tokens at least this fraction as likely as the likeliest remain.
        seed: the same seed draws the same tokens, whatever else runs; None is another seed each time.

    Raises:
        InvalidFields: a number is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Hold the numbers to their ranges."""
        _between(self, "temperature", 0.0, 100.0)
        _between(self, "top_k", 0, math.inf)
        _between(self, "top_p", 0.0, 1.0)
        _between(self, "min_p", 0.0, 1.0)
        _between(self, "repetition_penalty", 0.0, 100.0)
        _between(self, "frequency_penalty", -2.0, 2.0)
        _between(self, "presence_penalty", -2.0, 2.0)
        for name in ("top_p", "repetition_penalty"):
            if not getattr(self, name):
                raise _invalid(name, "must be above 0")
        for bias in self.logit_bias.values():
            if not -100.0 <= bias <= 100.0:
                raise _invalid("logit_bias", f"must be from -100 to 100, got {bias}")

    @property
    def is_greedy(self) -> bool:
        """Whether the largest logit is taken and nothing drawn."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether logits depend on the tokens before them."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt to be continued.

    Args:
        prompt: its tokens, at least one.
        sampling: how tokens are drawn.
        max_tokens: longest answer, in tokens; 0 only scores the prompt.
        min_tokens: no answer ends by a stop token or string before it has so many; a constraint that is met ends it.
        stop: strings that end the answer; they are no part of it.
        stop_tokens: tokens that end the answer, beside the end of text.
        ignore_end: take the end of text for a token like others.
        n: answers wanted, each with another course of chance.
        best_of: answers made, of which the `n` likeliest per token are given; None is `n`.
        logprobs: how many alternatives to tell with each token; None leaves its log-probability out as well.
        constraint: what the answer must follow.
        prompt_logprobs: how many alternatives to tell with each token of the prompt; None does not score it.
        scored_from: the first token of the prompt that is scored, if the prompt is.
        gates: outputs of the step graph to tell with each token.
        prompt_gates: whether the first event tells them for the whole prompt, and not only for its last token.
        stream: whether events are wanted while the answer grows.
        priority: 1 goes first; 0 is the default.
        deadline_seconds: longest time in the queue.
        caller: whose request it is; callers share the engine evenly.

    Raises:
        InvalidFields: a value is out of range, or two contradict each other.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    ignore_end: bool = False
    n: int = 1
    best_of: int | None = None
    logprobs: int | None = None
    constraint: Constraint | None = None
    prompt_logprobs: int | None = None
    scored_from: int = 1
    gates: tuple[str, ...] = ()
    prompt_gates: bool = False
    stream: bool = False
    priority: int = 0
    deadline_seconds: float | None = None
    caller: str = ""

    def __post_init__(self) -> None:
        """Hold the values to their ranges and to each other."""
        if not self.prompt:
            raise _invalid("prompt", "must have at least one token")
        _between(self, "max_tokens", 1 if self.prompt_logprobs is None else 0, math.inf)
        _between(self, "min_tokens", 0, math.inf)
        _between(self, "n", 1, MAX_CHOICES)
        _between(self, "priority", 0, math.inf)
        if self.min_tokens > self.max_tokens:
            raise _invalid("min_tokens", f"is {self.min_tokens}, more than max_tokens={self.max_tokens}")
        if len(self.stop) > MAX_STOPS:
            raise _invalid("stop", f"takes at most {MAX_STOPS} strings, got {len(self.stop)}")
        if not all(self.stop):
            raise _invalid("stop", "has an empty string: every text would end at once")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _between(self, name, 0, MAX_LOGPROBS)
        _between(self, "scored_from", 1, math.inf)
        if self.constraint is not None and self.ignore_end:
            raise _invalid("ignore_end", "contradicts a constraint, which says when an answer ends")
        if self.prompt_gates and not self.gates:
            raise _invalid("prompt_gates", "needs gates: which outputs are wanted")
        if self.deadline_seconds is not None and not self.deadline_seconds > 0:
            raise _invalid("deadline_seconds", f"must be above 0, got {self.deadline_seconds}")
        if self.best_of is None:
            return
        _between(self, "best_of", 1, MAX_CHOICES)
        if self.best_of < self.n:
            raise _invalid("best_of", f"is {self.best_of}, less than n={self.n}")
        if self.best_of > self.n and self.stream:
            raise _invalid("best_of", "above n cannot be streamed: which answers are best is known at their end")
        if self.best_of > self.n and self.sampling.is_greedy:
            raise _invalid("best_of", "above n needs a temperature above 0: without chance all answers are the same")

    @property
    def choices(self) -> int:
        """Answers that are made."""
        return self.best_of or self.n

    @property
    def reusable(self) -> int:
        """Tokens at the head of the prompt that need not be computed if a cache has them."""
        most = len(self.prompt)
        if self.gates:
            most = 0 if self.prompt_gates else most - 1
        return most if self.prompt_logprobs is None else min(most, self.scored_from - 1, len(self.prompt) - 1)

    @property
    def cost(self) -> int:
        """Tokens that all answers may need a place for, each with its prompt."""
        return self.choices * (len(self.prompt) + self.max_tokens)

    def check(self, vocabulary: int, slots: int) -> None:
        """Hold the request to a model.

        Raises:
            InvalidFields: a token is out of the vocabulary, or prompt and answer are longer than `slots` tokens.
        """
        named = (("prompt", self.prompt), ("stop_tokens", self.stop_tokens), ("logit_bias", self.sampling.logit_bias))
        for name, tokens in named:
            for token in (min(tokens, default=0), max(tokens, default=0)):
                if not 0 <= token < vocabulary:
                    raise _invalid(name, f"has token {token}, the vocabulary ends at {vocabulary - 1}")
        if len(self.prompt) + self.max_tokens > slots:
            raise InvalidFields(
                f"this model's texts have at most {slots} tokens: the prompt has {len(self.prompt)}, "
                f"max_tokens is {self.max_tokens}; shorten one of them",
                field="max_tokens" if len(self.prompt) < slots else "prompt",
                code="context_length_exceeded",
            )


def _between(values: object, name: str, least: float, most: float) -> None:
    value = getattr(values, name)
    if not least <= value <= most:  # NaN is not between either
        limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise _invalid(name, f"must be {limits}, got {value}")


def _invalid(name: str, problem: str) -> InvalidFields:
    return InvalidFields(f"{name} {problem}", field=name)
