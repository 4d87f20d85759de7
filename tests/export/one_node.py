"""One delta rewrite in three forms: a session with or without the op library, and the formulas in float64."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from ddl_model.delta_op import plain_delta_rewrite
from export import onnx_delta
from tests.cases import EPS, Inputs
from tests.tolerances import assert_agrees

Outputs = dict[str, NDArray[np.float32]]


def delta_model(shape_rank: int = 3, scale: float = 0.0) -> onnx.ModelProto:
    """Return the single-node model for states of `shape_rank` axes, every size left open."""
    model = onnx_delta.single_node_model(4, EPS, scale)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        sizes = [dim.dim_param or f"{value.name}_{i}" for i, dim in enumerate(dims)]
        if sizes[:1] == ["n"]:
            sizes = [f"n{i}" for i in range(shape_rank - 2)] + sizes[1:]
        del dims[:]
        dims.extend(onnx.TensorShapeProto.Dimension(dim_param=size) for size in sizes)
    return model


def open_session(
    model: onnx.ModelProto, library: Path | None, threads: int = 1, optimized: Path | None = None
) -> ort.InferenceSession:
    """Open a model on the CPU, on the kernels of `library` or, without it, on the plain body."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # refused inputs are errors that the tests look for, not news
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, inputs: Inputs) -> Outputs:
    """Run a session and name its outputs."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def solve(inputs: Inputs, scale: float = 0.0) -> dict[str, NDArray[np.float64]]:
    """Compute the outputs in float64 with the formulas that the model trains with."""
    exact = [torch.from_numpy(inputs[name]).double() for name in onnx_delta.INPUTS]
    outputs = plain_delta_rewrite(*exact, EPS, scale, True, None)
    return {name: output.numpy() for name, output in zip(onnx_delta.OUTPUTS, outputs, strict=True)}


def assert_same(
    actual: Outputs, expected: dict[str, NDArray[np.floating]], token_axes: int, names: Iterable[str] | None = None
) -> None:
    """Compare all outputs, or those in `names`, within their tolerances."""
    for name in names or onnx_delta.OUTPUTS:
        assert_agrees(name, actual[name], expected[name], token_axes)
