from pathlib import Path

import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from export.ops.contract import DELTA_REWRITE
from export.ops.single_node import single_node_model
from tests.cases import EXTREME_VALUES, LEADING_AXES, SHAPES, Inputs, Shape, make_inputs
from tests.export.one_node import assert_same, delta_model, open_session, run, solve

SCALES = (0.0, 4.0)


def test_model_is_valid() -> None:
    onnx.checker.check_model(delta_model(), full_check=True)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_runtime_without_library(shape: Shape, scale: float) -> None:
    inputs = make_inputs(shape)
    outputs = run(open_session(delta_model(scale=scale), library=None), inputs)
    assert_same(outputs, solve(inputs, scale), token_axes=1)


@pytest.mark.parametrize("shape", LEADING_AXES, ids=str)
def test_any_leading_axes(shape: Shape) -> None:
    inputs = make_inputs(shape)
    outputs = run(open_session(delta_model(len(shape.leading) + 2), library=None), inputs)
    assert_same(outputs, solve(inputs), token_axes=len(shape.leading))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [*LEADING_AXES, *(s for s in SHAPES if s.leading != (0,))], ids=str)
def test_reference_evaluator(shape: Shape, scale: float) -> None:
    inputs = make_inputs(shape)
    model = delta_model(len(shape.leading) + 2, scale)
    outputs = dict(zip(DELTA_REWRITE.outputs, ReferenceEvaluator(model).run(None, inputs), strict=True))
    assert_same(outputs, solve(inputs, scale), token_axes=len(shape.leading))


@pytest.mark.parametrize("extreme", EXTREME_VALUES)
def test_extreme_values(extreme: str) -> None:
    inputs: Inputs = make_inputs(Shape((3,), 33, 4))
    EXTREME_VALUES[extreme](inputs)
    outputs = run(open_session(delta_model(), library=None), inputs)
    assert_same(outputs, solve(inputs), token_axes=1)


def test_body_follows_the_opset_of_its_model() -> None:
    model = single_node_model(DELTA_REWRITE, opset=24)
    onnx.checker.check_model(model, full_check=True)
    inputs = make_inputs(Shape((3,), 16, 4))
    assert_same(run(open_session(model, library=None), inputs), solve(inputs), token_axes=1)
    with pytest.raises(ValueError, match="need opset 23 or newer, got 22"):
        single_node_model(DELTA_REWRITE, opset=22)


def test_files_of_the_first_version_still_run(root: Path) -> None:
    """`DeltaRewrite` version 1 had no override and always erased; its body is in the file."""
    model = onnx.load(root / "tests" / "data" / "delta_rewrite_v1.onnx")
    inputs = make_inputs(Shape((5,), 33, 4))
    assert_same(run(open_session(model, library=None), inputs), solve(inputs), token_axes=1)
