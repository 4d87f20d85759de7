"""Runs the graph of a decode step as a server would: buffers of its own, bound once, written in place."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.graph import LOGITS
from export.language.full_graph import INPUT_IDS
from export.language.step_graph import COUNTS, LENGTHS, LOGITS_OF
from tests.export.language_networks import Floats

HISTORY = "past/histories/"
IN_PLACE = ("past/keys/", "past/values/")


class StepRunner:
    """A batch of rows that are being decoded.

    Slots that no token has written hold NaN, so that a step which reads one shows it. `past` maps inputs to the memory
    that is bound to them: keys and values are outputs too, histories change places with a second set after each step.
    """

    def __init__(self, session: ort.InferenceSession, rows: int, slots: int) -> None:
        """Begin `rows` rows with room for `slots` tokens each."""
        self.session = session
        self.lengths = np.zeros(rows, np.int64)
        self.past: dict[str, Floats] = {}
        self._later: dict[str, Floats] = {}
        sizes = {"batch": rows, "slots": slots}
        for tensor in session.get_inputs():
            shape = tuple(sizes.get(size, size) for size in tensor.shape)
            if tensor.name.startswith(IN_PLACE):
                self.past[tensor.name] = np.full(shape, np.nan, np.float32)
            elif tensor.name.startswith(HISTORY):
                self.past[tensor.name] = np.zeros(shape, np.float32)
                self._later[tensor.name] = np.full(shape, np.nan, np.float32)
        self._results = [output.name for output in session.get_outputs() if not output.name.startswith("present/")]

    def step(
        self,
        ids: NDArray[np.int64],
        counts: Sequence[int] | None = None,
        logits_of: Sequence[int] | None = None,
        overrides: Mapping[str, Floats] | None = None,
    ) -> dict[str, Floats]:
        """Append tokens to the rows; returns logits, of all columns unless `logits_of` says otherwise, and gates."""
        wanted = np.arange(ids.size) if logits_of is None else np.array(logits_of, np.int64)
        tokens = np.full(len(ids), ids.shape[1], np.int64) if counts is None else np.array(counts, np.int64)
        binding = self.session.io_binding()
        feeds = {INPUT_IDS: ids, LENGTHS: self.lengths, COUNTS: tokens, LOGITS_OF: wanted, **(overrides or {})}
        # As OrtValues, which are views of the arrays: `bind_cpu_input` does not find inputs that may be left out.
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()} | self.past
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in (self.past | self._later).items():
            binding.bind_ortvalue_output(name.replace("past/", "present/"), ort.OrtValue.ortvalue_from_numpy(array))
        for name in self._results:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        later = {name: self.past[name] for name in self._later}
        self.past |= self._later
        self._later = later
        self.lengths = self.lengths + tokens
        found = {value: array.numpy() for value, array in zip(self._bound(), binding.get_outputs(), strict=True)}
        found = {name: found[name] for name in self._results}
        if logits_of is None:
            found[LOGITS] = found[LOGITS].reshape(*ids.shape, -1)
        return found

    def _bound(self) -> list[str]:
        """Return the names of the outputs in the order in which they were bound."""
        return [name.replace("past/", "present/") for name in self.past] + self._results
