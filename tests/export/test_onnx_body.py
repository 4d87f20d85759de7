import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from export import onnx_delta
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
    outputs = dict(zip(onnx_delta.OUTPUTS, ReferenceEvaluator(model).run(None, inputs), strict=True))
    assert_same(outputs, solve(inputs, scale), token_axes=len(shape.leading))


@pytest.mark.parametrize("extreme", EXTREME_VALUES)
def test_extreme_values(extreme: str) -> None:
    inputs: Inputs = make_inputs(Shape((3,), 33, 4))
    EXTREME_VALUES[extreme](inputs)
    outputs = run(open_session(delta_model(), library=None), inputs)
    assert_same(outputs, solve(inputs), token_axes=1)


@pytest.mark.parametrize("opset", [18, 23])
def test_body_follows_the_opset_of_its_model(opset: int) -> None:
    model = onnx_delta.single_node_model(4, 1e-6, 0.0, opset)
    onnx.checker.check_model(model, full_check=True)
    inputs = make_inputs(Shape((3,), 16, 4))
    assert_same(run(open_session(model, library=None), inputs), solve(inputs), token_axes=1)
