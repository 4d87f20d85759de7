"""An engine whose turns and clock a test moves, and answers held to those of the whole text."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from service.engine.generation.events import TokenEvent
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.loop import GenerationLoop
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.engine.generation.sequence import Sequence
from service.engine.generation.stepper import Stepper
from tests.service.fakes import ManualClock

if TYPE_CHECKING:
    from tests.service.generation.conftest import Words

GREEDY = SamplingParams(temperature=0.0)
TEXT: list[int] = np.random.default_rng(8).integers(1, 270, 200).tolist()


class Answer:
    """What one request was told."""

    def __init__(self, engine: "Engine", request: GenerateRequest) -> None:
        self.request = request
        self.events: list[list[TokenEvent]] = [[] for _ in range(request.n)]
        self.told: Callable[[TokenEvent], None] = lambda event: None
        self.sequences = engine.loop.submit(request, self._take)

    def _take(self, event: TokenEvent) -> None:
        events = self.events[event.choice]
        assert not (events and events[-1].is_last), "nothing comes after the last event"
        events.append(event)
        self.told(event)

    def tokens(self, choice: int = 0) -> list[int]:
        return [event.token for event in self.events[choice] if event.token is not None]

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.events[choice])

    @property
    def last(self) -> TokenEvent:
        return self.events[0][-1]

    def cancel(self) -> None:
        for sequence in self.sequences:
            sequence.is_cancelled = True


class Engine:
    """A loop over the small model, on a clock that is moved by hand."""

    def __init__(self, words: "Words", *, slots: int = 3, slot_tokens: int = 32, step_tokens: int = 8, **limits: Any):
        self.words = words
        self.clock = ManualClock()
        self.limits = GenerationLimits(slots=slots, slot_tokens=slot_tokens, step_tokens=step_tokens, **limits)
        self.stepper: Stepper = words.stepper(slots, slot_tokens)
        self.ended: list[Sequence] = []
        self.loop = GenerationLoop(
            self.stepper, words.tokenizer, self.limits, clock=self.clock, ended=self.ended.append
        )

    def ask(self, prompt: list[int], max_tokens: int = 6, sampling: SamplingParams = GREEDY, **fields: Any) -> Answer:
        fields.setdefault("ignore_end", True)
        return Answer(self, GenerateRequest(tuple(prompt), sampling, max_tokens=max_tokens, **fields))

    def finish(self) -> None:
        for _ in range(2000):
            if not self.loop.turn():
                break
        assert (self.loop.waiting, self.loop.running) == (0, 0)
        assert self.loop._table.free == self.limits.slots

    def check(self, *answers: Answer) -> None:
        """Hold answers to the plain way."""
        for answer in answers:
            assert answer.tokens() == self.words.continued(answer.request.prompt, answer.request.max_tokens)
            assert answer.last.finish == "length"
            assert answer.text() == self.words.tokenizer.decode(answer.tokens())
