"""More answers than are wanted: the likeliest are told, when all have ended."""

from collections.abc import Callable
from dataclasses import replace

from service.engine.generation.events import PromptScore, TokenEvent
from service.engine.generation.request import GenerateRequest
from service.engine.generation.sequence import Sequence


class BestOf:
    """Keeps the events of all choices back, and tells those of the best, numbered anew, best first."""

    def __init__(self, request: GenerateRequest, emit: Callable[[TokenEvent], None]) -> None:
        """Wait for `request.choices` answers."""
        self._wanted = request.n
        self._emit = emit
        self._sequences: list[Sequence] = []
        self._events: list[list[TokenEvent]] = [[] for _ in range(request.choices)]
        self._left = request.choices
        self._prompt: PromptScore | None = None

    def watch(self, sequences: list[Sequence]) -> None:
        """Name the sequences, whose likelihoods decide."""
        self._sequences = sequences

    def __call__(self, event: TokenEvent) -> None:
        """Take an event of a choice."""
        if event.prompt is not None:  # it belongs to the request, whichever answers are told
            self._prompt, event = event.prompt, replace(event, prompt=None)
        self._events[event.choice].append(event)
        if not event.is_last:
            return
        self._left -= 1
        if not self._left:
            # Answers that failed are told only where too few others are left.
            ranked = sorted(self._sequences, key=lambda s: (self._failed(s.choice), -s.likelihood))
            for number, sequence in enumerate(ranked[: self._wanted]):
                for kept in self._events[sequence.choice]:
                    self._emit(replace(kept, choice=number, prompt=self._prompt))
                    self._prompt = None

    def _failed(self, choice: int) -> bool:
        return self._events[choice][-1].error is not None
