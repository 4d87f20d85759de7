"""Sessions whose arrays are bound: a run reads and writes the caller's memory, and nothing is copied."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import ModelFailed
from service.manifest.language import CacheTensor
from service.runtime.session import Arrays, OrtSession

_DTYPES = {"FP32": np.float32, "FP16": np.float16}
_SLOTS = -1


def cache_shape(tensor: CacheTensor, rows: int, slots: int) -> tuple[int, ...]:
    """Return the shape of a tensor of the cache for so many rows, with places for `slots` tokens each."""
    return (rows, *(slots if size == _SLOTS else size for size in tensor.shape))


def empty_cache(tensor: CacheTensor, rows: int, slots: int) -> NDArray[Any]:
    """Return a tensor of the cache before any token; the system gives its memory when it is first written."""
    return np.zeros(cache_shape(tensor, rows, slots), _DTYPES[tensor.datatype])


def cache_bytes(layout: Iterable[CacheTensor], slots: int) -> int:
    """Return what one row of the cache takes; what is not in place is there twice."""
    return sum(
        math.prod(cache_shape(tensor, 1, slots)) * np.dtype(_DTYPES[tensor.datatype]).itemsize * (2 - tensor.in_place)
        for tensor in layout
    )


class BindingSession(Protocol):
    """A loaded graph that runs on arrays which stay where they are."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """Return a run of the graph from `inputs` into `outputs`, to be called any number of times.

        Every call reads what the inputs hold then. An array may be input and output at once, if the graph says so.
        """
        ...


class StepSession(OrtSession):
    """A graph in ONNX Runtime for decoding: large caches in the caller's memory, many runs on the same arrays."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> "BoundRun":
        """Return a run from `inputs` into `outputs`, which stay bound for as long as the run is kept.

        Inputs that may be left out may be bound too. Arrays must be C-contiguous, outputs of the shape that comes out.
        On another device than the CPU the runtime copies them there and back.

        Raises:
            ValueError: an array is not C-contiguous.
        """
        return BoundRun(self._session, inputs, outputs)


class BoundRun:
    """One set of bound arrays; the memory is theirs as long as this lives."""

    def __init__(self, session: ort.InferenceSession, inputs: Arrays, outputs: Arrays) -> None:
        """Bind views of the arrays."""
        self._session = session
        self._arrays = (dict(inputs), dict(outputs))
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, _view(name, array))
        for name, array in outputs.items():
            self._binding.bind_ortvalue_output(name, _view(name, array))

    def __call__(self) -> None:
        """Run the graph once.

        Raises:
            ModelFailed: ONNX Runtime could not run it on these arrays; what the outputs hold then is undefined.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise ModelFailed(f"the model could not be run: {str(error).strip().partition(chr(10))[0]}") from error


def _view(name: str, array: NDArray[Any]) -> ort.OrtValue:
    if not array.flags.c_contiguous:  # the runtime would take a copy, and the caller would never see a result
        raise ValueError(f"{name!r} is not C-contiguous")
    return ort.OrtValue.ortvalue_from_numpy(array)
