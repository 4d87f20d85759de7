"""What decoding must know of a model, worked out once when it is opened."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.manifest.image import Classification
from service.manifest.manifest import Manifest
from service.manifest.tensors import Datatype, TensorSpec
from service.protocol.call import OutputWish
from service.protocol.plans import Plans

DTYPES: dict[Datatype, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "INT64": np.dtype("<i8"),
}
"""Elements as binary tensors carry them: little-endian."""


@dataclass(frozen=True, slots=True)
class TensorView:
    """An input or output of the graph; `labels` are those of its classes, if it has classes."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: TensorSpec, labels: tuple[str, ...] = ()) -> "TensorView":
        """Work out what decoding needs of a manifest's tensor."""
        return cls(spec.name, spec.datatype, spec.shape, DTYPES[spec.datatype], labels)


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as requests see it.

    `default_outputs` are answered where none is asked for: every output but those that carry gates. `batchable` says
    that the first axis of every tensor is rows which do not know of each other, so that requests can share a run.
    `plans` are the headers of binary requests that came before.
    """

    name: str
    version: str
    inputs: dict[str, TensorView]
    outputs: dict[str, TensorView]
    default_outputs: tuple[OutputWish, ...]
    default_outputs_binary: tuple[OutputWish, ...]
    batchable: bool
    plans: Plans = field(default_factory=Plans, compare=False, repr=False)


def model_view(name: str, version: str, manifest: Manifest) -> ModelView:
    """Make the view of a model from its manifest; `name` is the name that it is answered under."""
    graph, task = manifest.graph, manifest.task
    gates = manifest.gates.carried if manifest.gates else set()
    labels: tuple[str, ...] = task.labels if isinstance(task, Classification) else ()

    def labels_of(spec: TensorSpec) -> tuple[str, ...]:
        """Whatever has one number for each class is about classes; the gates of as many positions are not."""
        return labels if spec.shape == (-1, len(labels)) and spec.name not in gates else ()

    inputs = {spec.name: TensorView.of(spec) for spec in graph.inputs}
    outputs = {spec.name: TensorView.of(spec, labels_of(spec)) for spec in graph.outputs}
    answered = [output for output in outputs if output not in gates]
    return ModelView(
        name,
        version,
        inputs,
        outputs,
        tuple([OutputWish(output) for output in answered]),
        tuple([OutputWish(output, binary=True) for output in answered]),
        batchable=all(spec.shape[0] == -1 for spec in (*graph.inputs, *graph.outputs)),
    )
