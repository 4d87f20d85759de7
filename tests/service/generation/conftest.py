"""A small language model opened for steps, and the plain way to continue a text that every other is held to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export.verify import PLAIN
from service.bundle import LanguageModelling, StepGraph, read_bundle
from service.engine.generation.cache_slots import CacheSlots
from service.engine.generation.stepper import Stepper
from service.runtime.session import CPU, OrtSession
from service.runtime.step_session import StepSession
from service.text import TextTokenizer
from tests.service.generation.loops import Engine


class Words:
    """The bundle, its sessions and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        manifest = read_bundle(folder).manifest
        assert isinstance(manifest.task, LanguageModelling)
        assert manifest.task.step is not None
        self.task = manifest.task
        self.graph: StepGraph = manifest.task.step
        self.vocabulary = manifest.task.vocabulary
        self.tokenizer = TextTokenizer.read(folder / "tokenizer.json")
        options = {"providers": [CPU], "threads": 1, "kernel": PLAIN}
        self.session = StepSession(folder / self.graph.graph.file, **options)
        self._whole = OrtSession(folder / manifest.graph.file, **options)
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def stepper(self, rows: int, tokens: int) -> Stepper:
        """Return slots whose unwritten places hold NaN, so that a step which reads one shows it."""
        slots = CacheSlots(self.graph.cache, rows, tokens)
        past, _ = slots.step_arrays(0, rows, 0)
        for tensor in self.graph.cache:
            if tensor.in_place:
                past[tensor.past][:] = np.nan
        return Stepper(self.session, self.graph, self.vocabulary, slots)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Return the logits after every token of a text, by the graph of whole texts."""
        found = self._known.get(tuple(tokens))
        if found is None:
            found = self._whole.run({"input_ids": np.array([tokens])}, ["logits"])["logits"][0]
            self._known[tuple(tokens)] = found
        return found

    def continued(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return the next tokens, each the likeliest after the whole text so far."""
        text = list(prompt)
        for _ in range(count):
            text.append(int(self.logits(text)[-1].argmax()))
        return text[len(prompt) :]


@pytest.fixture(scope="session")
def words(text_bundle: Path) -> Words:
    return Words(text_bundle)


@pytest.fixture
def engine(words: Words) -> Engine:
    return Engine(words)
