"""What a manifest says of an image classifier."""

from typing import Literal

from pydantic import Field, model_validator

from service.manifest.tensors import Graph, Part


class ImageInput(Part):
    """How image bytes become the pixel tensor (1, channels, height, width): `(pixel / 255 - mean) / std`.

    `background` says what the training images had around the object; an image with the other is inverted.
    """

    tensor: str
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: Literal["dark", "bright", "any"] = "any"

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> "ImageInput":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} numbers, one per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class Classification(Part):
    """What an image classifier needs beside its graph; `probabilities` names the output of class probabilities."""

    kind: Literal["image-classification"] = "image-classification"
    image: ImageInput
    labels: tuple[str, ...] = Field(min_length=2)
    probabilities: str

    def check(self, graph: Graph) -> None:
        """Hold the graph to what the task says of its tensors.

        Raises:
            ValueError: a tensor is missing, or has another datatype or shape.
        """
        image = self.image
        graph.find("input", image.tensor, "task.image.tensor")
        probabilities = graph.find("output", self.probabilities, "task.probabilities")
        pixels = (-1, image.channels, image.height, image.width)
        if [(spec.datatype, spec.shape) for spec in graph.inputs] != [("FP32", pixels)]:
            raise ValueError(f"the graph of a classifier has one input, {image.tensor!r} FP32 {list(pixels)}")
        if (probabilities.datatype, probabilities.shape) != ("FP32", (-1, len(self.labels))):
            raise ValueError(f"{probabilities.name!r} must be FP32 of shape [-1, {len(self.labels)}], like labels")
