"""Every op's plain body against the formulas in float64: shapes, options, what is left out."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ddl_model.delta_op import NO_OVERRIDE
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
from export.ops.single_node import single_node_model
from tests.cases import EPS, LEADING_AXES, SHAPES, TOKEN_AXES, Shape
from tests.export.one_node import NORM_EPS, Outputs, assert_same, op_inputs, open_session, run, solve

OVER_CHANNELS = (COMPRESS_NORM, DELTA_REWRITE_COMPRESS_NORM)
OVER_TOKENS = (TOKEN_COMPRESS_NORM, DELTA_REWRITE_TOKEN_COMPRESS_NORM)
REWRITING = tuple(op for op in OPS.values() if op.takes_override)
OVERRIDES = {
    "nothing": NO_OVERRIDE,
    "set": (0.0, 0.3, 0.0, 2.0, 1.0, 1.0),
    "scale": (3.0, 0.0, 0.0, 2.0, 1.0, 1.0),
    "clamp": (1.0, 0.0, 0.7, 1.1, 1.0, 1.0),
    "affine": (0.5, 0.25, 0.0, 2.0, 0.5, 2.0),
    "drop_erase": (1.0, 0.0, 0.0, 2.0, 0.0, 1.0),
    "drop_write": (1.0, 0.0, 0.0, 2.0, 1.0, 0.0),
}


def model_of(op: Op, shape: Shape, taps: int = 1, **options: object) -> onnx.ModelProto:
    attributes = {"direction_eps": EPS, "norm_eps": NORM_EPS, **options.pop("attributes", {})}
    return single_node_model(op, leading=len(shape.leading), taps=taps, attributes=attributes, **options)


def check(op: Op, outputs: Outputs, inputs: dict[str, np.ndarray], shape: Shape, **options: object) -> None:
    assert_same(outputs, solve(inputs, op=op, **options), len(shape.leading), outputs)


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_model_is_valid_and_the_reference_evaluator_runs_it(op: Op) -> None:
    shape = Shape((2, 4), 6, 3)
    model, inputs = model_of(op, shape, taps=3), op_inputs(op, shape, taps=3)
    onnx.checker.check_model(model, full_check=True)
    check(op, dict(zip(op.outputs, ReferenceEvaluator(model).run(None, inputs), strict=True)), inputs, shape)


@pytest.mark.parametrize("op", OVER_CHANNELS, ids=lambda op: op.name)
@pytest.mark.parametrize("shape", [*LEADING_AXES, *SHAPES[:9], *SHAPES[-8:]], ids=str)
def test_over_channels(op: Op, shape: Shape) -> None:
    inputs = op_inputs(op, shape)
    check(op, run(open_session(model_of(op, shape), None), inputs), inputs, shape)


@pytest.mark.parametrize("op", OVER_TOKENS, ids=lambda op: op.name)
@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("shape", TOKEN_AXES, ids=str)
def test_over_tokens(op: Op, shape: Shape, taps: int) -> None:
    inputs = op_inputs(op, shape, taps)
    check(op, run(open_session(model_of(op, shape, taps), None), inputs), inputs, shape)


@pytest.mark.parametrize("op", REWRITING, ids=lambda op: op.name)
@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("per_token", [False, True])
def test_overrides(op: Op, name: str, per_token: bool) -> None:
    shape = Shape((2, 4), 6, 3)
    inputs = op_inputs(op, shape, taps=3)
    row = np.array(OVERRIDES[name], np.float32)
    inputs[OVERRIDE] = np.tile(row, (2, 4, 1)) if per_token else row.reshape(1, 1, 6)
    model = model_of(op, shape, taps=3, override=True)
    check(op, run(open_session(model, None), inputs), inputs, shape)


@pytest.mark.parametrize("op", REWRITING, ids=lambda op: op.name)
def test_write_only(op: Op) -> None:
    shape = Shape((2, 4), 6, 3)
    inputs = op_inputs(op, shape, taps=3)
    model = model_of(op, shape, taps=3, attributes={"erases": 0})
    check(op, run(open_session(model, None), inputs), inputs, shape, erases=False)


@pytest.mark.parametrize("op", REWRITING, ids=lambda op: op.name)
def test_outputs_may_be_left_out(op: Op) -> None:
    shape = Shape((2, 4), 6, 3)
    inputs = op_inputs(op, shape, taps=3)
    for kept in (("beta",), ("new_state",), tuple(op.outputs)[1:]):
        model = model_of(op, shape, taps=3, outputs=kept)
        outputs = run(open_session(model, None), inputs)
        assert tuple(outputs) == kept
        check(op, outputs, inputs, shape)


def test_a_reading_takes_no_override() -> None:
    with pytest.raises(ValueError, match="CompressNorm takes no override"):
        single_node_model(COMPRESS_NORM, override=True)


def test_gate_and_target_inputs_may_have_widths_of_their_own() -> None:
    shape = Shape((3,), 16, 4)
    inputs = op_inputs(DELTA_REWRITE, shape)
    rng = np.random.default_rng(5)
    inputs |= {
        "context": rng.standard_normal((3, 5)).astype(np.float32),
        "gate_weight": rng.standard_normal((1, 5)).astype(np.float32),
        "target_input": rng.standard_normal((3, 9)).astype(np.float32),
        "target_weight": rng.standard_normal((4, 9)).astype(np.float32),
    }
    check(DELTA_REWRITE, run(open_session(model_of(DELTA_REWRITE, shape), None), inputs), inputs, shape)
