"""Describe exported networks in the terms of `service.bundle`."""

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

import onnx_ir as ir
from torch import Tensor, nn

from ddl_model.branch_residual import BranchResidual
from ddl_model.checkpoint import Checkpoint
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.gated_rewrite import GatedRewrite
from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel
from ddl_model.observe import SUBLAYERS, site_name
from ddl_model.residual import DeltaResidual
from export.graph import QUANTITIES, gate_output, override_input
from export.ops.contract import DOMAIN, OPS
from export.ops.translate import custom_nodes
from export.trace import OPSET, ExportedGraph
from service.bundle import CustomOp, Datatype, Gates, Graph, Positions, Site, TensorSpec, ValueMap

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

_VALUE_INPUTS: dict[str, Literal["context", "x_in", "output"]] = {
    "context": "context",
    "compressed": "x_in",
    "output": "output",
}
"""The names of the gates API for what a target is made of."""

_DATATYPES: dict[ir.DataType | None, Datatype] = {
    ir.DataType.FLOAT: "FP32",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.INT64: "INT64",
}


def graph_file(name: str) -> str:
    """Return where a bundle keeps a graph."""
    return f"graphs/{name}.onnx"


def describe_graph(
    name: str, graph: ExportedGraph, value_channels: int, descriptions: Mapping[str, str], weights: tuple[str, ...]
) -> Graph:
    """Describe a graph by what its file declares; inputs that may be left out are not among the inputs."""
    main = graph.model.graph
    required = [value for value in main.inputs if value.name not in main.initializers]
    return Graph(
        file=graph_file(name),
        opset=OPSET,
        inputs=tuple(_describe_tensor(value, descriptions) for value in required),
        outputs=tuple(_describe_tensor(value, descriptions) for value in main.outputs),
        custom_ops=tuple(
            CustomOp(
                domain=DOMAIN,
                name=op,
                version=OPS[op].version,
                count=count,
                value_channels=(value_channels,),
                datatype=_state_datatype(main, op),
            )
            for op, count in graph.custom_ops.items()
        ),
        weights=weights,
    )


def value_channels(model: ImageClassifier | DeltaResNet | LanguageModel) -> int:
    """Return the value channels of a network's states; in a convolutional one they are the positions of a stage.

    Its first stage has most of them. Readouts and targets of later stages are filled up with zeros.
    """
    if isinstance(model, DeltaResNet):
        return math.prod(model.config.grids[0])
    return model.config.state.value_channels


def describe_gates(model: ImageClassifier | LanguageModel, positions: Positions) -> Gates | None:
    """Describe the rewrites of a delta network and the graph outputs that tell of them; None if it only adds."""
    places = [(layer, sublayer) for layer in range(model.config.layers) for sublayer in SUBLAYERS]
    modules = _rewrites(model, DeltaResidual)
    sites = [
        Site(index=index, name=name, layer=layer, sublayer=sublayer, module=modules[name])
        for index, (layer, sublayer) in enumerate(places)
        if (name := site_name(layer, sublayer)) in modules
    ]
    return _gates(model, positions, sites, _VALUE_INPUTS[model.config.residual.target_input])


def describe_stage_gates(model: DeltaResNet) -> Gates | None:
    """Describe the rewrites of a convolutional network: one gate for the image at each of its blocks."""
    modules = _rewrites(model, BranchResidual)
    sites = [
        Site(index=index, name=name, layer=index, sublayer="conv", module=modules[name])
        for index, name in enumerate(model.sites)
    ]
    return _gates(model, Positions(kind="image"), sites, "output")


def _rewrites(model: nn.Module, kind: type[GatedRewrite]) -> dict[str, str]:
    """Return the modules' names by site."""
    return {module.site: name for name, module in model.named_modules() if isinstance(module, kind)}


def _gates(
    model: ImageClassifier | DeltaResNet | LanguageModel,
    positions: Positions,
    sites: Sequence[Site],
    value_input: Literal["context", "x_in", "output"],
) -> Gates | None:
    if not sites:
        return None
    residual = model.config.residual
    squashed = residual.target_map == "scaled_sigmoid"
    return Gates(
        update_rule="write_only" if residual.rule == "write_only" else "delta",
        value_channels=value_channels(model),
        direction_eps=residual.direction_eps,
        value_map=ValueMap(
            kind="sigmoid" if squashed else "linear",
            scale=residual.target_scale if squashed else 0.0,
            input=value_input,
        ),
        positions=positions,
        sites=tuple(sites),
        outputs={q: tuple(gate_output(site, q) for site in model.sites) for q in QUANTITIES},
        overrides=tuple(override_input(site) for site in model.sites),
    )


def parameter_count(weights: Mapping[str, Tensor]) -> int:
    """Return how many numbers of a checkpoint were learned; running statistics are not."""
    return sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(_BUFFERS))


def training_metrics(checkpoint: Checkpoint) -> dict[str, float]:
    """Return what the training record says of the model's quality; empty where it says nothing."""
    training = checkpoint.training
    metrics = {f"test_{name}": float(value) for name, value in training.get("test", {}).items()}
    if curve := training.get("curve"):
        validation = {name: value for name, value in curve[-1].items() if name.startswith("validation_")}
        metrics |= {name: float(value) for name, value in validation.items()}
    return metrics


def made_with() -> dict[str, str]:
    """Return the versions of what makes a bundle."""
    packages = ("torch", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def now() -> str:
    """Return the present moment as a manifest writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _describe_tensor(value: ir.Value, descriptions: Mapping[str, str]) -> TensorSpec:
    name = value.name or ""
    assert value.shape is not None, f"{name} has no shape"
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in value.shape)
    return TensorSpec(name=name, datatype=_DATATYPES[value.dtype], shape=shape, description=descriptions.get(name, ""))


def _state_datatype(graph: ir.Graph, op: str) -> Datatype:
    """Return the type of the state in the nodes of an op: that of its last input, a weight."""
    weight = next(node for node in custom_nodes(graph) if node.op_type == op).inputs[len(OPS[op].inputs) - 1]
    assert weight is not None
    return _DATATYPES[weight.dtype]
