"""What the model says of the tokens of a prompt, put together from chunk to chunk."""

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.events import Alternatives, PromptScore
from service.engine.generation.sampling import log_probabilities


class Score:
    """The log-probabilities of a prompt's tokens, from its token `start` on."""

    def __init__(self, prompt: NDArray[np.int64], start: int, top: int) -> None:
        """Begin with nothing known."""
        self._prompt: list[int] = prompt.tolist()
        self._start = start
        self._top = top
        self._logprobs: list[float | None] = [None] * len(prompt)
        self._alternatives: list[Alternatives] = [()] * len(prompt)
        self._greedy = [False] * len(prompt)

    def columns(self, length: int, count: int) -> range:
        """Return the tokens of a part, `count` behind `length` others, whose logits are needed."""
        # The logits after a token are about the next; those after the last begin the answer.
        return range(max(0, min(count, self._start - 1 - length)), count)

    def take(self, position: int, logits: NDArray[np.float32]) -> None:
        """Take the logits (n, vocabulary) after the tokens from `position` on."""
        for place, row in enumerate(logits[: len(self._prompt) - 1 - position], position + 1):
            token = self._prompt[place]
            self._logprobs[place], self._alternatives[place] = log_probabilities(row, token, self._top)
            self._greedy[place] = int(row.argmax()) == token

    def told(self) -> PromptScore:
        """Return what is known."""
        return PromptScore(tuple(self._prompt), tuple(self._logprobs), tuple(self._alternatives), tuple(self._greedy))
