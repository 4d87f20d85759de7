"""Sessions: named arrays in, named arrays out."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.bundle import Graph, TensorSpec
from service.errors import BundleInvalid, ModelFailed, ProviderUnavailable
from service.runtime.kernel_library import KernelChoice, plain

Arrays = Mapping[str, NDArray[Any]]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_logger = logging.getLogger(__name__)
_DATATYPES = {"tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(int64)": "INT64"}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the graph itself declares it; -1 is an axis of any length, an empty shape is unknown."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Session(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    provider: str
    kernel: KernelChoice
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, feeds: Arrays, outputs: Sequence[str], *, seconds: float | None = None) -> dict[str, NDArray[Any]]:
        """Compute the named outputs, within `seconds` if they are given.

        Raises:
            ModelFailed: the runtime could not run the graph on these arrays, or not in that time.
        """
        ...


class OrtSession:
    """A graph in ONNX Runtime.

    `kernel` tells how the custom ops are computed in the end: where a chosen library cannot be registered or the
    graph cannot be opened with it, the plain bodies run, and the reason says why.
    """

    def __init__(self, graph_path: Path, *, providers: Sequence[str], threads: int, kernel: KernelChoice) -> None:
        """Open the graph on the first of `providers`, with `threads` threads for one run.

        Raises:
            BundleInvalid: ONNX Runtime does not open the graph.
            ProviderUnavailable: the first provider is not what the session came out with.
        """
        if providers[0] not in ort.get_available_providers():
            raise _unavailable(providers[0])
        try:
            self._session = _open(graph_path, providers, threads, kernel)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            if kernel.path == "plain":
                raise BundleInvalid(f"{graph_path} cannot be opened: {_first_line(error)}") from error
            kernel = plain(f"{kernel.library} is not used: the graph does not open with it: {_first_line(error)}")
            _logger.warning(kernel.reason)
            try:
                self._session = _open(graph_path, providers, threads, kernel)
            except Exception as plain_error:
                raise BundleInvalid(f"{graph_path} cannot be opened: {_first_line(plain_error)}") from plain_error
        self.kernel = kernel
        # A provider that fails to start is left out without an exception.
        self.provider = str(self._session.get_providers()[0])
        if self.provider != providers[0]:
            raise _unavailable(providers[0])
        self.inputs = tuple(_info(argument) for argument in self._session.get_inputs())
        self.outputs = tuple(_info(argument) for argument in self._session.get_outputs())

    def run(self, feeds: Arrays, outputs: Sequence[str], *, seconds: float | None = None) -> dict[str, NDArray[Any]]:
        """Compute the named outputs, within `seconds` if they are given.

        Raises:
            ModelFailed: ONNX Runtime could not run the graph on these arrays, or not in that time.
        """
        try:
            if seconds is None:
                values = self._session.run(list(outputs), dict(feeds))
            else:
                values = self._run_within(feeds, outputs, seconds)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise ModelFailed(f"the model could not be run: {_first_line(error)}") from error
        return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}

    def _run_within(self, feeds: Arrays, outputs: Sequence[str], seconds: float) -> list[Any]:
        """Stop the run from another thread when its time is over; ONNX Runtime looks at that between two nodes."""
        options = ort.RunOptions()
        timer = threading.Timer(max(0.0, seconds), setattr, (options, "terminate", True))
        timer.start()
        try:
            values: list[Any] = self._session.run(list(outputs), dict(feeds), options)
        except Exception as error:
            if options.terminate:
                raise TimeoutError(f"it took longer than {seconds:.3g} s") from error
            raise
        finally:
            timer.cancel()
        return values


def check_graph(session: Session, graph: Graph, file: Path) -> None:
    """Compare the tensors that the graph declares with those that the manifest promises.

    Raises:
        BundleInvalid: a name, a datatype or a shape differs.
    """
    for kind, declared, promised in (
        ("input", session.inputs, graph.inputs),
        ("output", session.outputs, graph.outputs),
    ):
        found = {info.name: info for info in declared}
        wanted = {spec.name: spec for spec in promised}
        if found.keys() != wanted.keys():
            differing = sorted(found.keys() ^ wanted.keys())
            raise BundleInvalid(f"{file}: {kind} {differing[0]!r} is not in both the graph and the manifest")
        for name, spec in wanted.items():
            if not _agrees(found[name], spec, is_input=kind == "input"):
                info = found[name]
                raise BundleInvalid(
                    f"{file}: {kind} {name!r} is {info.datatype} {list(info.shape)} in the graph, "
                    f"{spec.datatype} {list(spec.shape)} in the manifest"
                )


def _agrees(info: TensorInfo, spec: TensorSpec, *, is_input: bool) -> bool:
    if info.datatype != spec.datatype:
        return False
    if not info.shape and not is_input:  # the runtime could not infer it
        return True
    if len(info.shape) != len(spec.shape):
        return False
    # A fixed axis of the graph cannot take an input of any length; an output may be vaguer than it comes out.
    return all(
        actual in (-1, promised) or (promised == -1 and not is_input)
        for actual, promised in zip(info.shape, spec.shape, strict=True)
    )


def _open(graph_path: Path, providers: Sequence[str], threads: int, kernel: KernelChoice) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads that spin would take the cores from the HTTP side.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Shapes change with every batch size; arena and patterns would keep the largest of each for ever.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    if kernel.library is not None:
        options.register_custom_ops_library(str(kernel.library))
    return ort.InferenceSession(str(graph_path), options, providers=[_with_options(name) for name in providers])


def _with_options(provider: str) -> str | tuple[str, dict[str, str]]:
    # TF32 keeps ten bits of a float32's mantissa: matrix products would differ from the recorded ones by 1e-3.
    return (provider, {"use_tf32": "0"}) if provider == CUDA else provider


def _info(argument: Any) -> TensorInfo:
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in argument.shape)
    return TensorInfo(argument.name, _DATATYPES.get(argument.type, argument.type), shape)


def _unavailable(provider: str) -> ProviderUnavailable:
    fix = "install onnxruntime-gpu and the NVIDIA driver, or choose the CPU"
    return ProviderUnavailable(f"ONNX Runtime {ort.__version__} cannot use {provider} here: {fix}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
