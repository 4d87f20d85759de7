"""The tiny bundle, with a graph that takes long whatever the input is."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.service.tiny_bundle import BundleMaker


def write_slow(repository: Path, *, side: int, repeats: int = 1, config: str = "") -> None:
    """Write it as `tiny`: `repeats` products of square matrices of `side`, all zero, are added to the logits."""

    def slow_down(model: onnx.ModelProto) -> None:
        graph = model.graph
        constants = {"all": np.zeros(0, np.int64), "zero": np.zeros(1, np.float32), "sides": np.array([side, side])}
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        softmax = next(node for node in graph.node if node.op_type == "Softmax")
        softmax.input[0] = "late_logits"
        # What depends on the input cannot be worked out when the graph is opened.
        nodes = [
            helper.make_node("ReduceSum", ["pixels"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Expand", ["nothing", "sides"], ["product0"]),
            *(helper.make_node("MatMul", [f"product{i}", "product0"], [f"product{i + 1}"]) for i in range(repeats)),
            helper.make_node("ReduceSum", [f"product{repeats}"], ["delay"], keepdims=0),
            helper.make_node("Add", ["logits", "delay"], ["late_logits"]),
        ]
        at = list(graph.node).index(softmax)
        for node in reversed(nodes):
            graph.node.insert(at, node)

    BundleMaker().write(repository, graph=slow_down)
    if config:
        (repository / "tiny" / "config.toml").write_text(config)
