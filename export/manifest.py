"""Describe an exported classifier in the terms of `service.bundle`."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

from ddl_model.checkpoint import Checkpoint
from ddl_model.image_classifier import ImageClassifier
from ddl_model.observe import SUBLAYERS, site_name
from ddl_model.residual import DeltaResidual
from export.graph import LOGITS, OPSET, PIXELS, PROBABILITIES, QUANTITIES, ExportedGraph, gate_output
from export.onnx_delta import DOMAIN, VERSION
from service.bundle import (
    SCHEMA,
    Classification,
    CustomOp,
    Gates,
    Golden,
    Graph,
    ImageInput,
    Manifest,
    Positions,
    Site,
    TensorSpec,
    ValueMap,
)

GRAPH_FILE = "graphs/model.onnx"
GOLDEN_FILE = "golden/samples.safetensors"


def make_manifest(
    name: str,
    description: str,
    model: ImageClassifier,
    checkpoint: Checkpoint,
    graph: ExportedGraph,
    weights_sha256: str,
    samples: int,
    tolerance: float,
) -> Manifest:
    """Describe an exported classifier."""
    config = model.config
    value_channels = config.state.value_channels
    size = (config.image_channels, config.image_height, config.image_width)
    tokens = config.grid[0] * config.grid[1]
    shapes = {"v": (-1, tokens, value_channels), "proj": (-1, tokens, value_channels)}
    outputs = [
        TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(-1, len(config.labels)), description="of each class"),
        TensorSpec(name=LOGITS, datatype="FP32", shape=(-1, len(config.labels)), description="before the softmax"),
    ]
    outputs += [
        TensorSpec(name=gate_output(site, quantity), datatype="FP32", shape=shapes.get(quantity, (-1, tokens)))
        for site in model.sites
        for quantity in QUANTITIES
    ]
    return Manifest(
        schema=SCHEMA,
        name=name,
        description=description,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        weights_sha256=weights_sha256,
        task=Classification(
            image=ImageInput(
                tensor=PIXELS,
                height=config.image_height,
                width=config.image_width,
                channels=config.image_channels,
                mean=(config.pixel_mean,) * config.image_channels,
                std=(config.pixel_std,) * config.image_channels,
                background=config.background,
            ),
            labels=config.labels,
            probabilities=PROBABILITIES,
        ),
        graph=Graph(
            file=GRAPH_FILE,
            opset=OPSET,
            inputs=(TensorSpec(name=PIXELS, datatype="FP32", shape=(-1, *size), description="normalised pixels"),),
            outputs=tuple(outputs),
            custom_ops=tuple(
                CustomOp(domain=DOMAIN, name=op, version=VERSION, count=count, value_channels=(value_channels,))
                for op, count in graph.custom_ops.items()
            ),
        ),
        gates=describe_gates(model) if model.sites else None,
        golden=Golden(file=GOLDEN_FILE, samples=samples, tolerance=tolerance),
        metrics=training_metrics(checkpoint),
        made_with={
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
    )


def describe_gates(model: ImageClassifier) -> Gates:
    """Describe the rewrites of a delta network and the graph outputs that tell of them."""
    residual = model.config.residual
    modules = {module.site: name for name, module in model.named_modules() if isinstance(module, DeltaResidual)}
    places = [(layer, sublayer) for layer in range(model.config.layers) for sublayer in SUBLAYERS]
    squashed = residual.target_map == "scaled_sigmoid"
    return Gates(
        update_rule="delta",
        value_channels=model.config.state.value_channels,
        direction_eps=residual.direction_eps,
        value_map=ValueMap(
            kind="sigmoid" if squashed else "linear",
            scale=residual.target_scale if squashed else 0.0,
            input="context" if residual.target_input == "context" else "x_in",
        ),
        positions=Positions(kind="patch", grid=model.config.grid),
        sites=tuple(
            Site(
                index=index,
                name=site_name(layer, sublayer),
                layer=layer,
                sublayer=sublayer,
                module=modules[site_name(layer, sublayer)],
            )
            for index, (layer, sublayer) in enumerate(places)
        ),
        outputs={q: tuple(gate_output(site, q) for site in model.sites) for q in QUANTITIES},
    )


def training_metrics(checkpoint: Checkpoint) -> dict[str, float]:
    """Return what the training record says of the model's quality; empty where it says nothing."""
    training = checkpoint.training
    metrics = {f"test_{name}": float(value) for name, value in training.get("test", {}).items()}
    if curve := training.get("curve"):
        last = curve[-1]
        metrics |= {name: float(last[name]) for name in ("validation_loss", "validation_accuracy")}
    return metrics
