"""One custom node in three forms: a session with or without the op library, and the formulas in float64."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from ddl_model.compress_op import ReadingArguments, compress_norm, delta_rewrite_compress_norm
from ddl_model.delta_op import RewriteArguments, RewriteOptions, delta_rewrite
from export.ops.contract import DELTA_REWRITE, OVERRIDE, REWRITES, Op
from export.ops.single_node import single_node_model
from tests.cases import EPS, Inputs, Shape, make_inputs, reading_inputs
from tests.tolerances import assert_agrees

Outputs = dict[str, NDArray[np.float32]]
NORM_EPS = 1e-5


def op_inputs(op: Op, shape: Shape, taps: int = 1) -> Inputs:
    """Return inputs of any of the ops, in its order."""
    found: Inputs = make_inputs(shape)
    if op is not DELTA_REWRITE:
        reading = reading_inputs(shape, taps if op.over_tokens else None)
        found |= {"compress_weight": reading["weight"], **reading}
    return {name: found[name] for name in op.inputs}


def delta_model(shape_rank: int = 3, scale: float = 0.0) -> onnx.ModelProto:
    """Return the model of one rewrite for states of `shape_rank` axes, every size left open."""
    return single_node_model(
        DELTA_REWRITE, leading=shape_rank - 2, attributes={"direction_eps": EPS, "target_scale": scale}
    )


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


def solve(
    inputs: Inputs, scale: float = 0.0, *, op: Op = DELTA_REWRITE, erases: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Compute the outputs in float64 with the formulas that the model trains with."""
    if op.over_tokens and inputs["state"].shape[1] == 0:  # torch does not convolve over nothing: cut one token off
        per_token = ("state", "direction", "context", "target_input")
        longer = {n: np.pad(a, [(0, 0), (0, 1)] + [(0, 0)] * (a.ndim - 2)) for n, a in inputs.items() if n in per_token}
        return {name: array[:, :0] for name, array in solve({**inputs, **longer}, scale, op=op, erases=erases).items()}
    exact = {name: torch.from_numpy(array).double() for name, array in inputs.items()}
    weight = exact.get("compress_weight", exact.get("weight"))
    reading = None if weight is None else ReadingArguments(weight, exact["norm_weight"], NORM_EPS, exact.get("history"))
    if op.name not in REWRITES:
        assert reading is not None
        outputs = [*compress_norm(exact["state"], reading)]
    else:
        arguments = RewriteArguments(*(exact[name] for name in DELTA_REWRITE.inputs))
        options, override = RewriteOptions(EPS, scale, erases), exact.get(OVERRIDE)
        if reading is None:
            outputs = [*delta_rewrite(arguments, options, override)]
        else:
            rewrite, read = delta_rewrite_compress_norm(arguments, reading, options, override)
            outputs = [rewrite.new_state, *read, *rewrite[1:]]
    return {name: output.numpy() for name, output in zip(op.outputs, outputs, strict=True)}


def assert_same(
    actual: Outputs, expected: dict[str, NDArray[np.floating]], token_axes: int, names: Iterable[str] | None = None
) -> None:
    """Compare all outputs of a rewrite, or those in `names`, within their tolerances."""
    for name in names or DELTA_REWRITE.outputs:
        assert_agrees(name, actual[name], expected[name], token_axes)
