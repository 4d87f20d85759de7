"""A decode step of a language model in every form that is timed: ONNX Runtime with and without kernels, torch."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddl_model.language_model import LanguageModel
from ddl_model.token_stream import whole_pass
from export.graph import LOGITS
from export.language.full_graph import INPUT_IDS
from export.language.step_graph import COUNTS, LENGTHS, LOGITS_OF, DecodeStep

Floats = NDArray[np.float32]
Step = Callable[[], Floats]
"""Runs one step, the same at each call, and returns its logits."""


class Work:
    """One row: `tokens` new ones behind `context` that the cache holds, and the logits of the last."""

    def __init__(self, tokens: int, context: int, vocabulary: int) -> None:
        """Draw the tokens."""
        self.tokens, self.context, self.slots = tokens, context, context + tokens
        self.inputs: dict[str, NDArray[np.int64]] = {
            INPUT_IDS: np.random.default_rng(0).integers(0, vocabulary, (1, tokens)),
            LENGTHS: np.array([context]),
            COUNTS: np.array([tokens]),
            LOGITS_OF: np.array([tokens - 1]),
        }

    def past(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return what a tensor of the cache holds, the same for every form: ordinary numbers, zeros without context."""
        if self.context == 0:
            return np.zeros(shape, np.float32)
        return np.random.default_rng(list(name.encode())).standard_normal(shape, dtype=np.float32)


def runtime_session(graph: Path, library: Path | None, profile: Path | None = None) -> ort.InferenceSession:
    """Open a graph for one thread, on the kernels of `library` or, without it, on the plain bodies."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class RuntimeStep:
    """A step in ONNX Runtime: inputs, cache and outputs are bound once, keys and values in place; no gates."""

    def __init__(self, session: ort.InferenceSession, work: Work) -> None:
        """Bind everything."""
        self._session = session
        self._binding = session.io_binding()
        self._logits = np.empty((1, session.get_outputs()[0].shape[1]), np.float32)
        # What is bound are views of these arrays, which the binding does not keep alive.
        self._alive: list[ort.OrtValue] = []
        for name, array in work.inputs.items():
            self._binding.bind_ortvalue_input(name, self._view(array))
        self._binding.bind_ortvalue_output(LOGITS, self._view(self._logits))
        sizes = {"batch": 1, "slots": work.slots}
        for tensor in session.get_inputs():
            if tensor.name.startswith("past/"):
                past = work.past(tensor.name, tuple(sizes.get(size, size) for size in tensor.shape))
                # Histories are made anew: into other memory, so that each step here is the same.
                present = np.empty_like(past) if tensor.name.startswith("past/histories/") else past
                self._binding.bind_ortvalue_input(tensor.name, self._view(past))
                self._binding.bind_ortvalue_output(tensor.name.replace("past/", "present/"), self._view(present))

    def __call__(self) -> Floats:
        """Run the step; returns its logits."""
        self._session.run_with_iobinding(self._binding)
        return self._logits

    def _view(self, array: NDArray[np.generic]) -> ort.OrtValue:
        self._alive.append(ort.OrtValue.ortvalue_from_numpy(array))
        return self._alive[-1]


class WholeLogits(nn.Module):
    """The logits of the last token of whole rows, in torch."""

    def __init__(self, model: LanguageModel) -> None:
        """Wrap the model."""
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits."""
        _, read = self.model.hidden_state(ids, whole_pass(ids))
        return self.model.logits(read.context[:, -1])


class StepLogits(nn.Module):
    """The logits of a step over a cache, which each step copies, in torch."""

    def __init__(self, step: DecodeStep) -> None:
        """Wrap the step."""
        super().__init__()
        self.step = step

    def forward(self, inputs: Sequence[Tensor], cache: Sequence[Tensor]) -> Tensor:
        """Return the logits."""
        return self.step(*inputs, cache)[0]


def torch_step(model: LanguageModel, work: Work, *, compiled: bool) -> Step:
    """Return a step in torch, eager or compiled for these very shapes."""
    inputs = [torch.from_numpy(array) for array in work.inputs.values()]
    if work.context:
        step = DecodeStep(model)
        cache = [
            torch.from_numpy(work.past(place.past, tuple(place.empty(1, work.slots).shape))) for place in step.layout
        ]
        module, given = StepLogits(step), (inputs, cache)
    else:
        module, given = WholeLogits(model), (inputs[0],)
    run = torch.compile(module, dynamic=False) if compiled else module

    def once() -> Floats:
        with torch.inference_mode():
            return np.asarray(run(*given))

    return once


def free() -> None:
    """Give back what is no longer used: models and sessions of this size do not fit many times."""
    gc.collect()
    torch.compiler.reset()
