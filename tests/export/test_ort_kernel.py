import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from export.ops.contract import DELTA_REWRITE, DOMAIN
from tests.cases import EXTREME_VALUES, FLOAT32_OVERFLOW, LEADING_AXES, SHAPES, Shape, make_inputs
from tests.export.one_node import Outputs, assert_same, delta_model, open_session, run, solve


@pytest.fixture(scope="module")
def session(kernel_library: Path) -> ort.InferenceSession:
    return open_session(delta_model(), kernel_library)


@pytest.fixture(scope="module")
def plain_session() -> ort.InferenceSession:
    return open_session(delta_model(), library=None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64_and_with_plain_body(
    session: ort.InferenceSession, plain_session: ort.InferenceSession, shape: Shape
) -> None:
    inputs = make_inputs(shape)
    outputs = run(session, inputs)
    assert_same(outputs, solve(inputs), token_axes=1)
    assert_same(outputs, run(plain_session, inputs), token_axes=1)


@pytest.mark.parametrize("scale", [4.0, -1.0])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_target_is_squashed_where_the_scale_is_positive(kernel_library: Path, channels: int, scale: float) -> None:
    inputs = make_inputs(Shape((3,), 33, channels))
    outputs = run(open_session(delta_model(scale=scale), kernel_library), inputs)
    assert_same(outputs, solve(inputs, scale), token_axes=1)


@pytest.mark.parametrize("shape", LEADING_AXES, ids=str)
def test_any_leading_axes(kernel_library: Path, shape: Shape) -> None:
    inputs = make_inputs(shape)
    outputs = run(open_session(delta_model(len(shape.leading) + 2), kernel_library), inputs)
    assert_same(outputs, solve(inputs), token_axes=len(shape.leading))


@pytest.mark.parametrize("channels", [1, 3, 4, 8])
@pytest.mark.parametrize("extreme", EXTREME_VALUES)
def test_extreme_values(
    session: ort.InferenceSession, plain_session: ort.InferenceSession, extreme: str, channels: int
) -> None:
    inputs = make_inputs(Shape((3,), 33, channels))
    EXTREME_VALUES[extreme](inputs)
    outputs = run(session, inputs)
    assert_same(outputs, solve(inputs), token_axes=1)
    assert_same(outputs, run(plain_session, inputs), token_axes=1)


@pytest.mark.parametrize("extreme", FLOAT32_OVERFLOW)
def test_overflows_where_the_plain_body_does(
    session: ort.InferenceSession, plain_session: ort.InferenceSession, extreme: str
) -> None:
    inputs = make_inputs(Shape((3,), 33, 4))
    FLOAT32_OVERFLOW[extreme](inputs)
    outputs = run(session, inputs)
    assert_same(outputs, run(plain_session, inputs), token_axes=1)
    np.testing.assert_array_equal(outputs["new_state"][1], inputs["state"][1])  # k = 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_threads_and_batches_do_not_change_a_bit(kernel_library: Path, channels: int) -> None:
    inputs = make_inputs(Shape((700,), 100, channels))
    alone, together = (run(open_session(delta_model(), kernel_library, threads), inputs) for threads in (1, 2))
    some = {name: array[300:303] if len(array) == 700 else array for name, array in inputs.items()}
    few = run(open_session(delta_model(), kernel_library), some)
    for name in DELTA_REWRITE.outputs:
        np.testing.assert_array_equal(alone[name], together[name])
        np.testing.assert_array_equal(alone[name][300:303], few[name])


def test_registered_kernel_replaces_the_body(kernel_library: Path, tmp_path: Path) -> None:
    open_session(delta_model(), kernel_library, optimized=tmp_path / "kernel.onnx")
    open_session(delta_model(), None, optimized=tmp_path / "plain.onnx")
    kernel, plain = (onnx.load(tmp_path / name) for name in ("kernel.onnx", "plain.onnx"))
    assert [(node.domain, node.op_type) for node in kernel.graph.node] == [(DOMAIN, DELTA_REWRITE.name)]
    assert len(plain.graph.node) > 10
    assert DOMAIN not in {node.domain for node in plain.graph.node}


def chain_model(length: int, keep_state: bool) -> onnx.ModelProto:
    """Return a model of `length` rewrites in a row, which only the last may leave: its state or its gate."""
    model = delta_model()
    single = model.graph.node[0]
    nodes = []
    for i in range(length):
        node = onnx.NodeProto()
        node.CopyFrom(single)
        node.name = f"rewrite_{i}"
        node.input[0] = "state" if i == 0 else f"state_{i}"
        unused = [""] * (len(node.output) - 1)
        node.output[:] = [f"state_{i + 1}", *unused]
        nodes.append(node)
    nodes[-1].output[0] = "new_state"
    nodes[-1].output[1] = "beta"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [output for output in model.graph.output if output.name == ("new_state" if keep_state else "beta")]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_chain_in_place_with_outputs_left_out(kernel_library: Path, channels: int, threads: int) -> None:
    inputs = make_inputs(Shape((300,), 100, channels))
    outputs = run(open_session(chain_model(5, keep_state=True), kernel_library, threads), inputs)
    expected = inputs["state"]
    for _ in range(5):
        expected = solve({**inputs, "state": expected.astype(np.float32)})["new_state"]
    assert_same(outputs, {"new_state": expected}, token_axes=1, names=["new_state"])


MEASURE_PEAK = """
import re, sys
from pathlib import Path
import numpy as np, onnxruntime as ort
from tests.cases import Shape, make_inputs

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

options = ort.SessionOptions()
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
options.intra_op_num_threads = 1
options.register_custom_ops_library(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
one = make_inputs(Shape((1,), 768, 8))
session.run(None, one)
per_token = ("state", "direction", "context", "target_input")
many = {name: np.repeat(array, 2048, axis=0) if name in per_token else array for name, array in one.items()}
before = peak()
session.run(None, many)
print((peak() - before) / many["state"].nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_state_is_rewritten_in_its_own_memory(kernel_library: Path, tmp_path: Path, root: Path) -> None:
    onnx.save(chain_model(4, keep_state=False), tmp_path / "chain.onnx")
    command = [sys.executable, "-c", MEASURE_PEAK, str(tmp_path / "chain.onnx"), str(kernel_library)]
    states = float(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)
    assert 0.5 < states < 1.5  # one copy of the state; without reuse there are two at a time


WRONG_SHAPES = {
    "direction": ((3, 15), "(3, 15)", "(3, 16)"),
    "context": ((1, 16), "(1, 16)", "(3, 16)"),
    "target_input": ((4, 16), "(4, 16)", "(3, 16)"),
    "gate_weight": ((16, 1), "(16, 1)", "(1, 16)"),
    "gate_bias": ((2,), "(2,)", "(1,)"),
    "target_weight": ((16, 4), "(16, 4)", "(4, 16)"),
    "target_bias": ((5,), "(5,)", "(4,)"),
}


@pytest.fixture(scope="module")
def open_sizes_session(kernel_library: Path) -> ort.InferenceSession:
    """Return a session that knows no size beforehand, so that wrong ones reach the kernel."""
    model = delta_model()
    for value in model.graph.input:
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{i}"
    return open_session(model, kernel_library)


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shape_is_named(open_sizes_session: ort.InferenceSession, name: str) -> None:
    inputs = make_inputs(Shape((3,), 16, 4))
    sizes, given, needed = WRONG_SHAPES[name]
    inputs[name] = np.zeros(sizes, np.float32)
    with pytest.raises(Exception, match="DeltaRewrite") as error:  # ONNX Runtime's exceptions have no common base
        open_sizes_session.run(None, inputs)
    assert f"input {name} has shape {given}, needed is {needed} because state has shape (3, 16, 4)" in str(error.value)


def test_state_without_channels_is_named(kernel_library: Path) -> None:
    model = delta_model()
    del model.graph.input[0].type.tensor_type.shape.dim[1:]
    inputs = {**make_inputs(Shape((3,), 16, 4)), "state": np.zeros(3, np.float32)}
    with pytest.raises(Exception, match=r"input state has shape \(3,\), needed is \(\.\.\., width, value channels\)"):
        open_session(model, kernel_library).run(None, inputs)


def test_missing_attribute_is_refused(kernel_library: Path) -> None:
    model = delta_model()
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name != "direction_eps"]
    del node.attribute[:]
    node.attribute.extend(kept)
    with pytest.raises(Exception, match="direction_eps"):
        open_session(model, kernel_library)


def test_float64_is_refused_before_the_first_run(kernel_library: Path) -> None:
    model = delta_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    with pytest.raises(Exception, match="double"):
        open_session(model, kernel_library)


def test_several_sessions_share_the_library(kernel_library: Path) -> None:
    inputs = make_inputs(Shape((3,), 16, 4))
    sessions = [open_session(delta_model(scale=scale), kernel_library) for scale in (0.0, 4.0)]
    results: list[Outputs] = [run(session, inputs) for session in sessions]
    del sessions[0]
    assert_same(results[0], solve(inputs), token_axes=1)
    assert_same(run(sessions[0], inputs), solve(inputs, 4.0), token_axes=1)
