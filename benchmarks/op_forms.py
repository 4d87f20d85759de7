"""The ops in every form that can be timed, each held against float64 before it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.timing import Run
from ddl_model.compress_op import plain_compress_norm, plain_delta_rewrite_compress_norm
from ddl_model.delta_op import plain_delta_rewrite
from export.ops.contract import COMPRESS_NORM, DELTA_REWRITE, DELTA_REWRITE_COMPRESS_NORM, Op
from export.ops.single_node import single_node_model
from tests.cases import EPS, Inputs, Shape
from tests.export.one_node import NORM_EPS, solve
from tests.tolerances import assert_agrees

Check = Callable[[], dict[str, NDArray[np.float32]]]

PLAIN_TORCH: dict[str, Callable[..., Any]] = {
    DELTA_REWRITE.name: plain_delta_rewrite,
    COMPRESS_NORM.name: plain_compress_norm,
    DELTA_REWRITE_COMPRESS_NORM.name: plain_delta_rewrite_compress_norm,
}


def session(model: onnx.ModelProto, library: Path | None) -> ort.InferenceSession:
    """Open the model for one thread, with the kernels or without a library on the plain body."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def model_of(op: Op) -> onnx.ModelProto:
    """Return the model of one node for any number of tokens."""
    return single_node_model(op, attributes={"direction_eps": EPS, "norm_eps": NORM_EPS})


def runtime_form(op: Op, opened: ort.InferenceSession, inputs: Inputs, in_place: bool = False) -> tuple[Run, Check]:
    """Bind inputs and outputs once; return the run, and what reads its outputs.

    In place, the new state is bound to the memory of the state, as inside a graph.
    """
    binding = opened.io_binding()
    exact = solve(inputs, op=op)
    state = ort.OrtValue.ortvalue_from_numpy(inputs["state"].copy())
    outputs = {
        name: state
        if in_place and name == "new_state"
        else ort.OrtValue.ortvalue_from_shape_and_type(exact[name].shape, np.float32)
        for name in op.outputs
    }
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, state if name == "state" else ort.OrtValue.ortvalue_from_numpy(array))
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)

    def run() -> None:
        opened.run_with_iobinding(binding)

    return run, lambda: {name: value.numpy() for name, value in outputs.items()}


def torch_form(op: Op, inputs: Inputs, compiled: bool) -> tuple[Run, Check]:
    """Return the formulas in torch, eager or compiled for this very shape."""
    plain = PLAIN_TORCH[op.name]
    function = torch.compile(plain, fullgraph=True, dynamic=False) if compiled else plain
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    options: dict[str, Any] = {}
    if op.takes_override:
        options |= {"direction_eps": EPS, "target_scale": 0.0, "erases": True, "override": None}
    if "norm_eps" in op.floats:
        options["norm_eps"] = NORM_EPS

    def run() -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            answer: tuple[torch.Tensor, ...] = function(*tensors, **options)
            return answer

    return run, lambda: {name: tensor.numpy() for name, tensor in zip(op.outputs, run(), strict=True)}


def standard_reading() -> onnx.ModelProto:
    """Return compress and norm in the standard operators that an exporter would write: what `CompressNorm` replaces."""
    nodes = [
        helper.make_node("Mul", ["state", "weight"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "last"], ["compressed"], keepdims=0),
        helper.make_node("RMSNormalization", ["compressed", "norm_weight"], ["context"], epsilon=NORM_EPS, axis=-1),
    ]
    shapes = {"state": ["n", "d", "dv"], "weight": ["d", "dv"], "norm_weight": ["d"]}
    outputs = {"compressed": ["n", "d"], "context": ["n", "d"]}
    graph = helper.make_graph(
        nodes,
        "reading",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [helper.make_tensor("last", TensorProto.INT64, [1], [-1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def copy_form(floats: int) -> Run:
    """Return a copy of so many numbers, warm."""
    source = np.ones(floats, np.float32)
    target = np.ones_like(source)
    return lambda: np.copyto(target, source)


def checked(op: Op, shape: Shape, forms: dict[str, tuple[Run, Check]], inputs: Inputs) -> dict[str, Run]:
    """Run every form once and hold it against float64; return the runs.

    A form that works in place is checked on its first run and goes on from its own result.
    """
    exact = solve(inputs, op=op)
    for run, outputs in forms.values():
        run()
        for name, array in outputs().items():
            assert_agrees(name, array, exact[name], len(shape.leading))
    return {name: run for name, (run, _) in forms.items()}
