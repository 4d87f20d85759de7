"""A bundle made by hand, without torch: a small ONNX graph and the same network in numpy, written independently.

Two sites (one layer), 2 x 3 patches of 4 x 4 pixels, width 6, 2 value channels. Its shape is odd on purpose: height and
width differ, so do the rows and columns of the patch grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from export.ops.bodies import plain_body
from export.ops.contract import DELTA_REWRITE, DOMAIN, DOMAIN_VERSION
from service.bundle import SCHEMA, Manifest, write_checksums, write_manifest

HEIGHT, WIDTH, PATCH = 8, 12, 4
GRID = (HEIGHT // PATCH, WIDTH // PATCH)
TOKENS = GRID[0] * GRID[1]
D, DV = 6, 2
LABELS = ("boot", "bag", "coat", "dress")
EPS, SCALE = 0.05, 4.0
ATTRIBUTES = {"direction_eps": EPS, "target_scale": SCALE, "erases": 1}
MEAN, STD = 0.25, 0.5
SITES = ("0.attn", "0.mlp")
QUANTITIES = {
    "beta": "beta",
    "beta_logit": "gate_logit",
    "v": "target",
    "proj": "readout",
    "k_raw_norm": "direction_norm",
}
"""Names of the gates API, and of the op's outputs."""
TOLERANCE = 1e-4
OPSET = 23

Weights = dict[str, NDArray[np.float32]]


def make_weights(seed: int = 0) -> Weights:
    """Draw weights that spread the gates over (0, 2)."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, spread: float = 1.0) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * spread).astype(np.float32)

    weights = {"patch": draw(D * DV, 1, PATCH, PATCH, spread=0.4)}
    for site in SITES:
        weights |= {
            f"{site}/compress": draw(DV, spread=1.0),
            f"{site}/direction": draw(D, D, spread=0.7),
            f"{site}/gate_weight": draw(1, D, spread=1.2),
            f"{site}/gate_bias": draw(1),
            f"{site}/target_weight": draw(DV, D),
            f"{site}/target_bias": draw(DV),
        }
    weights |= {"head/compress": draw(DV), "head/weight": draw(D, len(LABELS)), "head/bias": draw(len(LABELS))}
    return weights


def make_graph(weights: Weights) -> onnx.ModelProto:
    """Build the graph: patches to state, two rewrites, mean over tokens, softmax."""
    constants = {
        **weights,
        "state_shape": np.array([0, D, DV, TOKENS], np.int64),
        "token_axis": np.array([1], np.int64),
        "last_axis": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "patch"], ["patches"], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["patches", "state_shape"], ["channels_first"]),
        helper.make_node("Transpose", ["channels_first"], ["state0"], perm=[0, 3, 1, 2]),
    ]
    state = "state0"
    for index, site in enumerate(SITES):
        nodes += [
            helper.make_node("MatMul", [state, f"{site}/compress"], [f"{site}/context"]),
            helper.make_node("MatMul", [f"{site}/context", f"{site}/direction"], [f"{site}/raw"]),
            helper.make_node("Sin", [f"{site}/context"], [f"{site}/target_input"]),
        ]
        state_in, state = state, f"state{index + 1}"
        inputs = [state_in, f"{site}/raw", f"{site}/context", f"{site}/target_input"]
        inputs += [f"{site}/{name}" for name in ("gate_weight", "gate_bias", "target_weight", "target_bias")]
        outputs = [state, *(f"{site}/{name}" for name in ("beta", "beta_logit", "v", "proj", "k_raw_norm"))]
        nodes.append(helper.make_node(DELTA_REWRITE.name, inputs, outputs, domain=DOMAIN, **ATTRIBUTES))
    nodes += [
        helper.make_node("MatMul", [state, "head/compress"], ["features"]),
        helper.make_node("ReduceMean", ["features", "token_axis"], ["pooled"], keepdims=0),
        helper.make_node("Gemm", ["pooled", "head/weight", "head/bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    float_ = TensorProto.FLOAT
    declared = [
        helper.make_tensor_value_info(name, float_, ["batch", *shape]) for name, shape in output_shapes().items()
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", float_, ["batch", 1, HEIGHT, WIDTH])],
        declared,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(
        graph, functions=[plain_body(DELTA_REWRITE, OPSET, squashes=True)], opset_imports=imports, ir_version=10
    )


def output_shapes() -> dict[str, tuple[int, ...]]:
    """Return every output and its shape without the batch axis."""
    shapes: dict[str, tuple[int, ...]] = {"probabilities": (len(LABELS),), "logits": (len(LABELS),)}
    for site in SITES:
        for quantity in QUANTITIES:
            shapes[f"{site}/{quantity}"] = (TOKENS, DV) if quantity in ("v", "proj") else (TOKENS,)
    return shapes


def reference(weights: Weights, pixels: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Compute the network in float64, written from the formulas; also the state after each site, as `state/SITE`."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    batch = len(pixels)
    grid = pixels.astype(np.float64).reshape(batch, GRID[0], PATCH, GRID[1], PATCH)
    patches = grid.transpose(0, 1, 3, 2, 4).reshape(batch, TOKENS, PATCH * PATCH)
    state = (patches @ w["patch"].reshape(D * DV, -1).T).reshape(batch, TOKENS, D, DV)
    found: dict[str, NDArray[np.float64]] = {"state/first": state}
    for site in SITES:
        context = state @ w[f"{site}/compress"]
        raw = context @ w[f"{site}/direction"]
        length = np.sqrt(np.einsum("btd,btd->bt", raw, raw))
        k = raw / np.sqrt(length**2 + EPS**2)[..., None]
        logit = context @ w[f"{site}/gate_weight"][0] + w[f"{site}/gate_bias"][0]
        beta = 2 / (1 + np.exp(-logit))
        v = SCALE / (1 + np.exp(-(np.sin(context) @ w[f"{site}/target_weight"].T + w[f"{site}/target_bias"])))
        proj = np.einsum("btd,btdv->btv", k, state)
        state = state + np.einsum("bt,btd,btv->btdv", beta, k, v - proj)
        for name, value in zip(QUANTITIES, (beta, logit, v, proj, length), strict=True):
            found[f"{site}/{name}"] = value
        found[f"state/{site}"] = state
        found[f"k/{site}"] = k
    logits = (state @ w["head/compress"]).mean(1) @ w["head/weight"] + w["head/bias"]
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return {**found, "logits": logits, "probabilities": exponents / exponents.sum(-1, keepdims=True)}


def make_manifest(**changes: Any) -> dict[str, Any]:
    """Return the manifest as JSON values; `changes` replace top-level fields."""
    outputs = [{"name": n, "datatype": "FP32", "shape": [-1, *s]} for n, s in output_shapes().items()]
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "name": "tiny",
        "description": "made by hand",
        "created": "2026-01-01T00:00:00Z",
        "weights_sha256": "0" * 64,
        "task": {
            "kind": "image-classification",
            "image": {
                "tensor": "pixels",
                "height": HEIGHT,
                "width": WIDTH,
                "channels": 1,
                "mean": [MEAN],
                "std": [STD],
                "background": "dark",
            },
            "labels": list(LABELS),
            "probabilities": "probabilities",
        },
        "graph": {
            "file": "graphs/model.onnx",
            "opset": OPSET,
            "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, HEIGHT, WIDTH]}],
            "outputs": outputs,
            "custom_ops": [
                {
                    "domain": DOMAIN,
                    "name": DELTA_REWRITE.name,
                    "version": DELTA_REWRITE.version,
                    "count": 2,
                    "value_channels": [DV],
                }
            ],
        },
        "gates": {
            "update_rule": "delta",
            "value_channels": DV,
            "direction_eps": EPS,
            "value_map": {"kind": "sigmoid", "scale": SCALE, "input": "x_in"},
            "positions": {"kind": "patch", "grid": list(GRID)},
            "sites": [
                {"index": i, "name": s, "layer": 0, "sublayer": s.partition(".")[2], "module": f"layers.{s}"}
                for i, s in enumerate(SITES)
            ],
            "outputs": {quantity: [f"{site}/{quantity}" for site in SITES] for quantity in QUANTITIES},
        },
        "golden": {"file": "golden/samples.safetensors", "samples": 3, "tolerance": TOLERANCE},
        "metrics": {"accuracy": 0.25},
        "made_with": {},
    }
    return {**manifest, **changes}


@dataclass
class BundleMaker:
    """Writes bundles into a repository; each step can be changed to make a broken one."""

    weights: Weights = field(default_factory=make_weights)

    def write(
        self,
        repository: Path,
        name: str = "tiny",
        version: str = "1",
        *,
        manifest: Callable[[dict[str, Any]], None] = lambda m: None,
        graph: Callable[[onnx.ModelProto], None] = lambda g: None,
        golden: Callable[[dict[str, NDArray[Any]]], None] = lambda g: None,
        files: Callable[[Path], None] = lambda f: None,
        after: Callable[[Path], None] = lambda f: None,
    ) -> Path:
        """Write a bundle; the callbacks alter the manifest, graph, golden samples, files, and what was checksummed."""
        folder = repository / name / version
        (folder / "graphs").mkdir(parents=True)
        (folder / "golden").mkdir()
        model = make_graph(self.weights)
        graph(model)
        (folder / "graphs" / "model.onnx").write_bytes(model.SerializeToString())
        samples = self.golden()
        golden(samples)
        save_file(samples, folder / "golden" / "samples.safetensors")
        values = make_manifest(name=name)
        manifest(values)
        write_manifest(folder, Manifest.model_validate(values))
        files(folder)
        write_checksums(folder)
        after(folder)
        return folder

    def golden(self) -> dict[str, NDArray[Any]]:
        """Return three samples with every output of the reference."""
        pixels = np.random.default_rng(7).standard_normal((3, 1, HEIGHT, WIDTH)).astype(np.float32)
        outputs = reference(self.weights, pixels)
        samples = {f"output/{name}": outputs[name].astype(np.float32) for name in output_shapes()}
        return {"input/pixels": pixels, **samples}
