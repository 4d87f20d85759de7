"""Every op's kernel against the formulas in float64 and against its plain body: shapes, options, types, extremes."""

import ctypes
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export.ops.contract import (
    COMPRESS_NORM,
    DELTA_REWRITE,
    DELTA_REWRITE_COMPRESS_NORM,
    DELTA_REWRITE_TOKEN_COMPRESS_NORM,
    OPS,
    OVERRIDE,
    TOKEN_COMPRESS_NORM,
    Op,
)
from tests.cases import EXTREME_VALUES, LEADING_AXES, SHAPES, TOKEN_AXES, Inputs, Shape
from tests.export.one_node import Outputs, assert_same, op_inputs, open_session, run, solve
from tests.export.test_op_bodies import OVERRIDES, model_of

OVER_CHANNELS = (COMPRESS_NORM, DELTA_REWRITE_COMPRESS_NORM)
OVER_TOKENS = (TOKEN_COMPRESS_NORM, DELTA_REWRITE_TOKEN_COMPRESS_NORM)
REWRITING = tuple(op for op in OPS.values() if op.takes_override)


def names(op: Op) -> str:
    return op.name


def check(op: Op, model: onnx.ModelProto, library: Path, inputs: Inputs, shape: Shape, **options: bool) -> Outputs:
    """Hold the kernel to the formulas; return its outputs."""
    outputs = run(open_session(model, library), inputs)
    assert_same(outputs, solve(inputs, op=op, **options), len(shape.leading), outputs)
    return outputs


@pytest.mark.parametrize("op", OVER_CHANNELS, ids=names)
@pytest.mark.parametrize("shape", [*LEADING_AXES, *SHAPES], ids=str)
def test_over_channels(kernel_library: Path, op: Op, shape: Shape) -> None:
    check(op, model_of(op, shape), kernel_library, op_inputs(op, shape), shape)


@pytest.mark.parametrize("op", OVER_TOKENS, ids=names)
@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("shape", TOKEN_AXES, ids=str)
def test_over_tokens(kernel_library: Path, op: Op, shape: Shape, taps: int) -> None:
    check(op, model_of(op, shape, taps), kernel_library, op_inputs(op, shape, taps), shape)


@pytest.mark.parametrize("op", REWRITING, ids=names)
@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("per_token", [False, True])
def test_overrides(kernel_library: Path, op: Op, name: str, per_token: bool) -> None:
    shape = Shape((2, 4), 6, 3)
    inputs = op_inputs(op, shape, taps=3)
    row = np.array(OVERRIDES[name], np.float32)
    inputs[OVERRIDE] = np.tile(row, (2, 4, 1)) if per_token else row.reshape(1, 1, 6)
    check(op, model_of(op, shape, taps=3, override=True), kernel_library, inputs, shape)


def test_an_override_for_some_tokens_is_refused(kernel_library: Path) -> None:
    shape = Shape((2, 4), 6, 3)
    inputs = op_inputs(DELTA_REWRITE, shape) | {OVERRIDE: np.zeros((2, 1, 6), np.float32)}
    session = open_session(model_of(DELTA_REWRITE, shape, override=True), kernel_library)
    with pytest.raises(Exception, match=r"override has shape \(2, 1, 6\)"):
        session.run(None, inputs)


@pytest.mark.parametrize("op", REWRITING, ids=names)
def test_a_gate_that_is_no_number_can_be_set_but_not_cut(kernel_library: Path, op: Op) -> None:
    shape = Shape((2, 4), 6, 3)
    inputs = op_inputs(op, shape, taps=3)
    inputs["gate_bias"][:] = np.nan
    session = open_session(model_of(op, shape, taps=3, override=True), kernel_library)
    for name, is_nan in (("set", False), ("clamp", True)):
        inputs[OVERRIDE] = np.array(OVERRIDES[name], np.float32).reshape(1, 1, 6)
        assert bool(np.isnan(run(session, inputs)["beta"]).all()) == is_nan


@pytest.mark.parametrize("op", REWRITING, ids=names)
def test_write_only(kernel_library: Path, op: Op) -> None:
    shape = Shape((2, 4), 6, 3)
    model = model_of(op, shape, taps=3, attributes={"erases": 0})
    check(op, model, kernel_library, op_inputs(op, shape, taps=3), shape, erases=False)


@pytest.mark.parametrize("op", REWRITING, ids=names)
def test_outputs_may_be_left_out(kernel_library: Path, op: Op) -> None:
    shape = Shape((2, 40), 33, 4)
    inputs = op_inputs(op, shape, taps=3)
    choices = [("beta",), ("new_state",), tuple(op.outputs)[1:]]
    for kept in choices if op is not DELTA_REWRITE_TOKEN_COMPRESS_NORM else choices[1:2]:
        assert tuple(check(op, model_of(op, shape, taps=3, outputs=kept), kernel_library, inputs, shape)) == kept


READING_HAS = {name for name in EXTREME_VALUES if "state" in name}


@pytest.mark.parametrize(
    ("op", "extreme"),
    [
        *((DELTA_REWRITE_COMPRESS_NORM, name) for name in EXTREME_VALUES),
        *((COMPRESS_NORM, name) for name in sorted(READING_HAS)),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else value,
)
def test_extreme_values_stay_in_their_token(kernel_library: Path, op: Op, extreme: str) -> None:
    shape = Shape((3,), 33, 4)
    inputs = op_inputs(op, shape)
    EXTREME_VALUES[extreme](inputs)
    model = model_of(op, shape)
    outputs, plain = run(open_session(model, kernel_library), inputs), run(open_session(model, None), inputs)
    assert_same(outputs, plain, 1, outputs)


@settings(max_examples=40, deadline=None)
@given(
    op=st.sampled_from(list(OPS.values())),
    rows=st.integers(0, 3),
    tokens=st.integers(0, 9),
    width=st.integers(1, 70),
    channels=st.integers(1, 9),
    taps=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_shape(
    kernel_library: Path, op: Op, rows: int, tokens: int, width: int, channels: int, taps: int, seed: int
) -> None:
    shape = Shape((max(1, rows), tokens) if op.over_tokens else (rows, tokens), width, channels)
    inputs = op_inputs(op, shape, taps)
    rng = np.random.default_rng(seed)
    inputs["state"] = rng.standard_normal(inputs["state"].shape).astype(np.float32)
    check(op, model_of(op, shape, taps), kernel_library, inputs, shape)


@pytest.mark.parametrize("op", OVER_TOKENS, ids=names)
def test_threads_and_batches_do_not_change_a_bit(kernel_library: Path, op: Op) -> None:
    shape = Shape((3, 500), 100, 4)
    inputs, model = op_inputs(op, shape, taps=4), model_of(op, shape, taps=4)
    alone, together = (run(open_session(model, kernel_library, threads), inputs) for threads in (1, 2))
    per_row = ("state", "direction", "context", "target_input", "history")
    one = {name: array[1:2] if name in per_row else array for name, array in inputs.items()}
    few = run(open_session(model, kernel_library), one)
    for name in op.outputs:
        np.testing.assert_array_equal(alone[name], together[name])
        np.testing.assert_array_equal(alone[name][1:2], few[name])


HALF = {TensorProto.FLOAT16: (np.float16, 2.0**-10), TensorProto.BFLOAT16: (None, 2.0**-7)}


def to_half(array: np.ndarray, datatype: int) -> ort.OrtValue:
    """Round float32 numbers to a half type; bfloat16, which numpy has not, by its bits."""
    if datatype == TensorProto.FLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(array.astype(np.float16))
    bits = array.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(rounded, int(datatype))


def from_half(value: ort.OrtValue, datatype: int) -> np.ndarray:
    if datatype == TensorProto.FLOAT16:
        return value.numpy().astype(np.float32)
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(value.shape())))
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(value.shape())


@pytest.mark.parametrize("op", OPS.values(), ids=names)
@pytest.mark.parametrize("datatype", HALF)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_half_types_are_rounded_once(kernel_library: Path, op: Op, datatype: int, channels: int) -> None:
    shape = Shape((2, 30), 33, channels)
    inputs = op_inputs(op, shape, taps=3)
    session = open_session(model_of(op, shape, taps=3, datatype=datatype), kernel_library)
    binding = session.io_binding()
    rounded: Inputs = {}
    for name, array in inputs.items():
        value = to_half(array, datatype)
        rounded[name] = from_half(value, datatype)
        binding.bind_ortvalue_input(name, value)
    for name in op.outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    expected = solve(rounded, op=op)
    for name, value in zip(op.outputs, binding.get_outputs(), strict=True):
        stored = "float16" not in value.data_type() and value.data_type() == "tensor(float)"
        actual = value.numpy() if stored else from_half(value, datatype)
        allowed = 1e-5 if stored else HALF[datatype][1]
        scale = np.maximum(1.0, np.abs(expected[name]))
        # The reading sees the new state as it was rounded: the error of d_v x taps roundings adds up.
        factor = 8 if name in ("compressed", "context", "next_context") and "new_state" in op.outputs else 1
        assert float((np.abs(actual - expected[name]) / scale).max()) <= factor * allowed, name


def test_files_of_the_first_version_run_on_the_kernel(kernel_library: Path, root: Path) -> None:
    model = onnx.load(root / "tests" / "data" / "delta_rewrite_v1.onnx")
    shape = Shape((5,), 33, 4)
    check(DELTA_REWRITE, model, kernel_library, op_inputs(DELTA_REWRITE, shape), shape)
