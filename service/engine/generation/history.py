"""Which tokens a sequence has seen, kept in a form that penalties take in one go."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.request import SamplingParams


class TokenHistory:
    """The different tokens of a prompt and its answer, and how often the answer has each."""

    def __init__(self, prompt: Sequence[int], longest_answer: int) -> None:
        """Begin with the prompt's tokens, and room for as many more."""
        known = np.unique(np.asarray(prompt, np.int64))
        self._tokens = np.concatenate([known, np.zeros(longest_answer, np.int64)])
        self._counts = np.zeros(len(self._tokens), np.float32)
        self._places = {token: place for place, token in enumerate(known.tolist())}

    def add(self, token: int) -> None:
        """Count a token of the answer."""
        place = self._places.setdefault(token, len(self._places))
        self._tokens[place] = token
        self._counts[place] += 1

    def penalise(self, logits: NDArray[np.float32], params: SamplingParams) -> None:
        """Change the logits (vocabulary,) of the next token in place."""
        tokens, counts = self._tokens[: len(self._places)], self._counts[: len(self._places)]
        values = logits[tokens]
        if params.repetition_penalty != 1.0:
            penalty = np.float32(params.repetition_penalty)
            values = np.where(values > 0, values / penalty, values * penalty)
        values -= np.float32(params.frequency_penalty) * counts
        values -= np.float32(params.presence_penalty) * (counts > 0)
        logits[tokens] = values
