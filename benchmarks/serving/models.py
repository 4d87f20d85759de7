"""Two models that show two things, as bundles: `python -m benchmarks.serving.models FOLDER`.

mlp    784-512-512-10, some ten microseconds a row: shows what the server costs
heavy  784-4096-(nine residual layers of 4096 x 4096)-10, 600 MB of weights that every run reads: about 50 ms for a
       batch of one, and hardly more for a batch of eight: shows what batching gains

The weights are random, the same in every run of this program.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from service.bundle import SCHEMA, Manifest, write_checksums, write_manifest
from service.runtime.kernel_library import plain
from service.runtime.session import CPU, OrtSession

SIDE, CLASSES, OPSET = 28, 10, 20
INPUT, OUTPUT = "input", "probabilities"
HEAVY_WIDTH, HEAVY_LAYERS = 4096, 9
_SAMPLES = 4

Array = NDArray[np.float32]


def mlp() -> onnx.ModelProto:
    """Build the small classifier: two hidden layers of 512."""
    draw = _draw(7)
    sizes = (SIDE * SIDE, 512, 512, CLASSES)
    weights: dict[str, Array] = {}
    nodes, value = [helper.make_node("Flatten", [INPUT], ["flat"])], "flat"
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        weights[f"weight{layer}"] = draw(rows, columns, (2 / rows) ** 0.5)
        weights[f"bias{layer}"] = np.zeros(columns, np.float32)
        nodes.append(helper.make_node("Gemm", [value, f"weight{layer}", f"bias{layer}"], [f"sum{layer}"]))
        value = f"sum{layer}"
        if layer < len(sizes) - 2:
            nodes.append(helper.make_node("Relu", [value], [f"hidden{layer}"]))
            value = f"hidden{layer}"
    return _model("mlp", nodes, value, weights)


def heavy() -> onnx.ModelProto:
    """Build the classifier that is bound by reading its weights."""
    draw = _draw(11)
    weights = {"first": draw(SIDE * SIDE, HEAVY_WIDTH, (2 / SIDE**2) ** 0.5)}
    nodes = [helper.make_node("Flatten", [INPUT], ["flat"]), helper.make_node("MatMul", ["flat", "first"], ["h0"])]
    for layer in range(HEAVY_LAYERS):
        name = f"layer{layer}"
        weights[name] = draw(HEAVY_WIDTH, HEAVY_WIDTH, 0.5 / HEAVY_WIDTH**0.5)
        nodes += [
            helper.make_node("MatMul", [f"h{layer}", name], [f"{name}/sum"]),
            helper.make_node("Relu", [f"{name}/sum"], [f"{name}/hidden"]),
            helper.make_node("Add", [f"h{layer}", f"{name}/hidden"], [f"h{layer + 1}"]),
        ]
    weights["last"] = draw(HEAVY_WIDTH, CLASSES, HEAVY_WIDTH**-0.5)
    nodes.append(helper.make_node("MatMul", [f"h{HEAVY_LAYERS}", "last"], ["logits"]))
    return _model("heavy", nodes, "logits", weights)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {"mlp": mlp, "heavy": heavy}


def write(repository: Path, name: str) -> Path:
    """Write a model as version 1 of a bundle, unless it is there; return the path of its graph."""
    folder = repository / name / "1"
    graph = folder / "graphs" / "model.onnx"
    if (folder / "SHA256SUMS").is_file():
        return graph
    graph.parent.mkdir(parents=True, exist_ok=True)
    (folder / "golden").mkdir(exist_ok=True)
    onnx.save(MODELS[name](), graph)
    session = OrtSession(graph, providers=[CPU], threads=1, kernel=plain("a benchmark"))
    pixels = np.random.default_rng(5).standard_normal((_SAMPLES, 1, SIDE, SIDE)).astype(np.float32)
    answered = session.run({INPUT: pixels}, [OUTPUT])[OUTPUT]
    save_file({f"input/{INPUT}": pixels, f"output/{OUTPUT}": answered}, folder / "golden" / "samples.safetensors")
    write_manifest(folder, Manifest.model_validate(_manifest(name)))
    write_checksums(folder)
    return graph


def _draw(seed: int) -> Callable[[int, int, float], Array]:
    rng = np.random.default_rng(seed)
    return lambda rows, columns, spread: rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(spread)


def _model(name: str, nodes: list[onnx.NodeProto], logits: str, weights: dict[str, Array]) -> onnx.ModelProto:
    shapes = {INPUT: ["batch", 1, SIDE, SIDE], OUTPUT: ["batch", CLASSES]}
    given, answered = (
        helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape) for tensor, shape in shapes.items()
    )
    nodes = [*nodes, helper.make_node("Softmax", [logits], [OUTPUT], axis=-1)]
    constants = [numpy_helper.from_array(array, tensor) for tensor, array in weights.items()]
    graph = helper.make_graph(nodes, name, [given], [answered], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _manifest(name: str) -> dict[str, Any]:
    image = {"tensor": INPUT, "height": SIDE, "width": SIDE, "channels": 1, "mean": [0.0], "std": [1.0]}
    return {
        "schema": SCHEMA,
        "name": name,
        "description": "random weights, for benchmarks",
        "created": "2026-01-01T00:00:00Z",
        "weights_sha256": "0" * 64,
        "task": {
            "kind": "image-classification",
            "image": image,
            "labels": [str(index) for index in range(CLASSES)],
            "probabilities": OUTPUT,
        },
        "graph": {
            "file": "graphs/model.onnx",
            "opset": OPSET,
            "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, 1, SIDE, SIDE]}],
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, CLASSES]}],
        },
        "gates": None,
        "golden": {"file": "golden/samples.safetensors", "samples": _SAMPLES, "tolerance": 1e-3},
    }


def main() -> None:
    """Write the bundles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="repository to write them to")
    parser.add_argument("models", nargs="*", choices=list(MODELS), default=list(MODELS))
    options = parser.parse_args()
    for name in options.models:
        print(write(options.folder, name))


if __name__ == "__main__":
    main()
