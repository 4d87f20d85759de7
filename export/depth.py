"""What a bundle gives for the algebra over depth: the directions, the first state, and the head that reads states.

Directions and first state are values that the graph computes anyway; they become outputs, which costs a prediction no
node. The head is a file of its own, because the service reads states that no graph has made.
"""

from typing import Any, TypeGuard

import torch
from safetensors.torch import save
from torch import Tensor

from ddl_model.compress import Compressor
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel
from ddl_model.observe import Observer
from export.ops.contract import OPS, REWRITES
from export.ops.translate import custom_nodes
from export.trace import ExportedGraph
from service.bundle import Depth, Head

HEAD_FILE = "head.safetensors"
FIRST_STATE = "gates/first_state"


def has_depth(
    model: ImageClassifier | DeltaResNet | LanguageModel,
) -> TypeGuard[ImageClassifier | LanguageModel]:
    """Tell whether all rewrites of a network work on one state: those of a convolutional network have one per stage."""
    return bool(model.sites) and not isinstance(model, DeltaResNet)


def direction_output(site: str) -> str:
    """Return the name of the graph output that carries the raw direction of one rewrite."""
    return f"gates/{site}/direction"


def expose(graph: ExportedGraph) -> None:
    """Make outputs of the raw directions and of the first state of a graph whose rewrites bear their sites' names."""
    main = graph.model.graph
    rewrites = [node for node in custom_nodes(main) if node.op_type in REWRITES]
    for index, node in enumerate(rewrites):
        arguments = dict(zip(OPS[node.op_type].inputs, node.inputs, strict=False))
        wanted = {"direction": direction_output(str(node.name))} | ({"state": FIRST_STATE} if index == 0 else {})
        for argument, name in wanted.items():
            value = arguments[argument]
            assert value is not None, f"{node.name} has no {argument}"
            value.name = name
            main.outputs.append(value)


def describe_depth(model: ImageClassifier | LanguageModel) -> Depth:
    """Describe the outputs that `expose` makes, and the head."""
    eps = model.final_norm.eps
    assert eps is not None
    head = Head(
        file=HEAD_FILE,
        norm_eps=eps,
        scale=model.config.logits_scale if isinstance(model, LanguageModel) else 1.0,
        pooled=not isinstance(model, LanguageModel),
    )
    return Depth(directions=tuple(direction_output(site) for site in model.sites), first_state=FIRST_STATE, head=head)


def head_file(model: ImageClassifier | LanguageModel) -> bytes:
    """Return the head's tensors: `compressor` (d, dv) or (d, dv, taps), `norm` (d), `weight` (classes, d), `bias`."""
    compressor = model.final_compress
    assert isinstance(compressor, Compressor)
    config = model.config
    with torch.no_grad():
        tensors = {
            "compressor": compressor.weights(torch.zeros(1, 1, config.width, config.state.value_channels)),
            "norm": model.final_norm.weight,
        }
        if isinstance(model, LanguageModel):
            tensors["weight"] = model.embedding.weight
        else:
            tensors |= {"weight": model.head.weight, "bias": model.head.bias}
        return save({name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()})


def torch_depth(model: ImageClassifier | LanguageModel, inputs: Tensor) -> dict[str, Tensor]:
    """Return what torch says of the outputs that `expose` makes."""
    observer = Observer(keep_states=True)
    with torch.no_grad():
        call: Any = model
        call(inputs, observer=observer)
    directions = {direction_output(site): observer.directions[site] for site in model.sites}
    return {FIRST_STATE: observer.states[model.sites[0]], **directions}
