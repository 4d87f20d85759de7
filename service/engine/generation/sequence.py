"""One answer in flight: its tokens, its place in the cache, and how it ends."""

from collections.abc import Callable, Mapping
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.events import Alternatives, FinishReason, GateRows, PromptScore, Timings, TokenEvent
from service.engine.generation.history import TokenHistory
from service.engine.generation.request import GenerateRequest
from service.engine.generation.sampling import Sampler, log_probabilities
from service.engine.generation.score import Score
from service.errors import ModelFailed, ServiceError
from service.text import StopStrings, TextTokenizer


class Status(Enum):
    """Where a sequence is on its way."""

    WAITING = auto()
    PREFILLING = auto()
    DECODING = auto()
    DONE = auto()


class Sequence:
    """One choice of a request, from the queue to its last event. All times are seconds on the engine's clock."""

    def __init__(
        self,
        request: GenerateRequest,
        choice: int,
        tokenizer: TextTokenizer | None,
        emit: Callable[[TokenEvent], None],
        *,
        now: float = 0.0,
    ) -> None:
        """Begin to wait. Without a tokenizer there is no text, and nothing but stop tokens ends the answer."""
        self.request = request
        self.choice = choice
        self.emit = emit
        self.prompt = np.array(request.prompt, np.int64)
        self.prompt_hash = hash(request.prompt)
        self.status = Status.WAITING
        self.is_cancelled = False
        """Set by whoever no longer wants the answer, from any thread; the next turn of the engine frees its place."""
        self.slot = -1
        self.split = 0
        """Where prefill pauses to remember the state of a prefix that others share; 0 is nowhere."""
        self.passed_over = 0
        """Chunks of later prompts that went first."""
        self.answer: list[int] = []
        self.finish: FinishReason | None = None
        self.error: ServiceError | None = None
        self.reused = 0
        """Tokens of the prompt that came from the cache."""
        self.logprob_sum = 0.0
        self.arrived = now
        self.admitted: float | None = None
        self.first_token: float | None = None
        self.latest_token: float | None = None
        self.finished: float | None = None
        self._sampler = Sampler(
            request.sampling,
            choice,
            TokenHistory(request.prompt, request.max_tokens) if request.sampling.has_penalties else None,
        )
        end = None if tokenizer is None or request.ignore_end else tokenizer.end_of_text
        self._ends = request.stop_tokens if end is None else request.stop_tokens | {end}
        self._text = None if tokenizer is None else tokenizer.detokenizer()
        self._stops = StopStrings(request.stop)
        self._constraint = None if request.constraint is None else request.constraint.begin()
        self._gates: GateRows | None = None
        scores = request.prompt_logprobs is not None and not choice
        self.score = Score(self.prompt, request.scored_from, request.prompt_logprobs or 0) if scores else None
        """What is known of the prompt, if it is scored: by the first choice, for all."""
        self._needs_logprobs = request.logprobs is not None or request.choices > request.n

    @property
    def reusable(self) -> int:
        """Tokens at the head of the prompt that need not be computed if a cache has them."""
        return len(self.prompt) if self.choice and not self.request.gates else self.request.reusable

    @property
    def timings(self) -> Timings:
        """How long it took until it ended."""
        assert self.finished is not None, "timings are told at the end"
        return Timings(
            None if self.admitted is None else self.admitted - self.arrived,
            None if self.first_token is None else self.first_token - self.arrived,
            self.finished - self.arrived,
            len(self.prompt),
            self.reused,
            len(self.answer),
        )

    @property
    def deadline(self) -> float | None:
        """When waiting is over."""
        seconds = self.request.deadline_seconds
        return None if seconds is None else self.arrived + seconds

    @property
    def cost(self) -> int:
        """Tokens that the answer may need a place for, with its prompt."""
        return len(self.prompt) + self.request.max_tokens

    @property
    def likelihood(self) -> float:
        """Mean log-probability of the answer's tokens; known where answers are compared."""
        return self.logprob_sum / max(1, len(self.answer))

    def take(self, logits: NDArray[np.float32], now: float) -> None:
        """Draw the next token from the logits (vocabulary,) and tell of it; the sequence may be done afterwards."""
        place, request = len(self.answer), self.request
        if not request.max_tokens:
            self.finish = "length"
            self._end(now)
            self._emit(None)
            return
        try:
            token = self._draw(logits, place)
        except ValueError as error:
            self.fail(ModelFailed(f"no token can be drawn: {error}"), now)
            return
        except ServiceError as error:
            self.fail(error, now)
            return
        logprob: float | None = None
        top: Alternatives = ()
        if self._needs_logprobs:
            logprob, top = log_probabilities(logits, token, request.logprobs or 0)
            self.logprob_sum += logprob
        self.answer.append(token)
        self._sampler.took(token)
        if self.first_token is None:
            self.first_token = now
        self.latest_token = now
        text, self.finish = self._continue_text(token, place + 1)
        if self.finish is not None:
            self._end(now)
        self._emit(token, text, logprob, top)

    def fail(self, error: ServiceError, now: float) -> None:
        """End without an answer, and tell why."""
        if self.status is not Status.DONE:
            self.error = error
            self._end(now)
            self._emit(None)

    def drop(self, now: float) -> None:
        """End without a word: nobody listens."""
        self._end(now)

    def keep_gates(self, position: int, gates: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep, for the next token's event, what a step told of gates from `position` of the text on."""
        if not self.request.gates:
            return
        rows = {name: gates[name].copy() for name in self.request.gates}
        if self._gates is None or not self.request.prompt_gates:
            last = len(next(iter(rows.values()))) - 1
            is_whole = self.request.prompt_gates
            kept = rows if is_whole else {name: array[-1:] for name, array in rows.items()}
            self._gates = GateRows(position if is_whole else position + last, kept)
        else:  # another chunk of the prompt
            before = self._gates
            values = {name: np.concatenate([before.values[name], array]) for name, array in rows.items()}
            self._gates = GateRows(before.first, values)

    def _draw(self, logits: NDArray[np.float32], place: int) -> int:
        """Return the next token.

        Raises:
            ValueError: there is none.
            InvalidFields: the constraint cannot be followed any further.
        """
        forbidden = self._ends if place < self.request.min_tokens else frozenset()
        if self._constraint is None:
            return self._sampler.draw(logits, place, forbidden)
        allowed = self._constraint.allowed()
        if forbidden:
            rest = allowed.copy()
            rest[list(forbidden)] = False
            allowed = rest if rest.any() else allowed
        token = self._sampler.draw(logits, place, allowed=allowed)
        if token not in self._ends:
            self._constraint.took(token)
        return token

    def _emit(self, token: int | None, text: str = "", logprob: float | None = None, top: Alternatives = ()) -> None:
        """Tell of a token or of the end, with whatever else is due."""
        prompt: PromptScore | None = None
        if self.score is not None and self.error is None:
            prompt, self.score = self.score.told(), None
        gates, self._gates = (None, self._gates) if token is None else (self._gates, None)
        timings = self.timings if self.status is Status.DONE else None
        self.emit(TokenEvent(self.choice, token, text, logprob, top, self.finish, self.error, prompt, gates, timings))

    def _end(self, now: float) -> None:
        self.status = Status.DONE
        self.finished = now

    def _continue_text(self, token: int, count: int) -> tuple[str, FinishReason | None]:
        """Return the text that the token lets out, and why the answer ends with it, if it does."""
        if token in self._ends:
            return self._last_text(), "stop"
        piece = "" if self._text is None else self._text.add(token)
        text = piece if count <= self.request.min_tokens else self._stops.add(piece)
        if self._stops.found is not None:
            return text, "stop"
        if self._constraint is not None and self._constraint.is_met:
            return text + self._last_text(), "stop"
        if count == self.request.max_tokens:
            return text + self._last_text(), "length"
        return text, None

    def _last_text(self) -> str:
        text = "" if self._text is None else self._stops.add(self._text.flush())
        return text + self._stops.flush()
