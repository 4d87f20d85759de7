"""What a manifest says of a graph: its file, its tensors, its custom ops."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Datatype = Literal["FP32", "FP16", "INT64"]
"""Names of tensor types as the Open Inference Protocol spells them."""


class Part(BaseModel):
    """A part of a manifest: what it does not know it refuses, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(Part):
    """One input or output of a graph; -1 in `shape` is an axis of any length."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)
    description: str = ""


class CustomOp(Part):
    """A custom operator that the graph uses; its plain body is attached to the graph."""

    domain: str
    name: str
    version: int
    count: int = Field(ge=1)
    value_channels: tuple[int, ...] = ()
    datatype: Datatype = "FP32"


class Graph(Part):
    """The ONNX file, its tensors and what it asks of the runtime; `weights` are the files of its external data."""

    file: str
    opset: int
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    custom_ops: tuple[CustomOp, ...] = ()
    weights: tuple[str, ...] = ()

    def find(self, kind: Literal["input", "output"], name: str, field: str) -> TensorSpec:
        """Return the tensor that `field` of the manifest names.

        Raises:
            ValueError: the graph has none of this name.
        """
        for spec in self.inputs if kind == "input" else self.outputs:
            if spec.name == name:
                return spec
        raise ValueError(f"{field} {name!r} is no {kind} of the graph")


def require(spec: TensorSpec, datatype: str, shape: tuple[int, ...]) -> None:
    """Hold a tensor to a datatype and a shape.

    Raises:
        ValueError: it has others.
    """
    if (spec.datatype, spec.shape) != (datatype, shape):
        found = f"{spec.datatype} {list(spec.shape)}"
        raise ValueError(f"{spec.name!r} must be {datatype} of shape {list(shape)}, got {found}")
