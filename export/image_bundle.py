"""An image classifier as a bundle: one graph, from pixels to probabilities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ddl_model.checkpoint import Checkpoint
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.training import fashion_mnist
from ddl_model.training.errors import DataError
from ddl_model.training.image_task import image_batches, model_pixels
from ddl_model.training.task import Batch
from export.golden import sample_pixels
from export.graph import LOGITS, PIXELS, PROBABILITIES, WithGates, export_graph, output_names, unsupported
from export.kind import MODEL, HeldOut, Run, Script
from export.manifest import describe_gates, describe_stage_gates
from export.precision_half import HalfImageClassifier
from export.trace import ExportedGraph
from service.bundle import Classification, Gates, Graph, ImageInput, Positions


@dataclass(frozen=True)
class ImageBundle:
    """See `export.kind.Kind`."""

    model: ImageClassifier | DeltaResNet
    checkpoint: Checkpoint
    input: str = PIXELS

    def refusal(self) -> str | None:
        """See `Kind`."""
        return unsupported(self.model.config.residual)

    def lacks(self) -> list[str]:
        """See `Kind`: nothing."""
        return []

    def graphs(self) -> dict[str, ExportedGraph]:
        """See `Kind`."""
        return {MODEL: export_graph(self.model)}

    def scripts(self) -> dict[str, Script]:
        """See `Kind`: one run of a few images."""
        pixels = sample_pixels(self.model.config, self.checkpoint.samples)
        return {MODEL: Script((Run({PIXELS: pixels}, torch_outputs(self.model, pixels)),))}

    def task(self, graphs: Mapping[str, Graph], tolerance: float) -> Classification:
        """See `Kind`."""
        config = self.model.config
        image = ImageInput(
            tensor=PIXELS,
            height=config.image_height,
            width=config.image_width,
            channels=config.image_channels,
            mean=(config.pixel_mean,) * config.image_channels,
            std=(config.pixel_std,) * config.image_channels,
            background=config.background,
        )
        return Classification(image=image, labels=config.labels, probabilities=PROBABILITIES)

    def gates(self) -> Gates | None:
        """See `Kind`."""
        if isinstance(self.model, DeltaResNet):
            return describe_stage_gates(self.model)
        return describe_gates(self.model, Positions(kind="patch", grid=self.model.config.grid))

    def descriptions(self) -> dict[str, str]:
        """See `Kind`."""
        return {PIXELS: "normalised pixels", PROBABILITIES: "of each class", LOGITS: "before the softmax"}

    def files(self) -> dict[str, bytes]:
        """See `Kind`: none."""
        return {}

    def card(self) -> dict[str, str]:
        """See `Kind`."""
        return {
            "summary": "An image classifier.",
            "Classes": ", ".join(self.model.config.labels),
            "Limits": "it knows images like those it was trained on, and gives every other image a class as well",
        }

    def logits(self, inputs: Tensor) -> Tensor:
        """See `Kind`."""
        logits: Tensor = self.model(inputs)
        return logits

    def held_out(self, source: Path | None, limit: int) -> HeldOut:
        """See `Kind`: the test set of Fashion-MNIST in `source`, in batches; the checkpoint's own images in one."""
        classes = len(self.model.config.labels)
        if source is None:
            pixels = self.checkpoint.samples.get("pixels")
            if pixels is None:
                raise DataError("the checkpoint holds no samples: name images to measure on with --evaluate-on")
            own = pixels[:limit]
            return HeldOut(f"the checkpoint's own {len(own)} images", "images", classes, [lambda: (own, None)])
        images = fashion_mnist.load(source)[1]
        if (found := int(images.labels.max()) + 1) > classes:
            raise DataError(f"{source} has {found} classes, the model knows {classes}")
        images = replace(images, images=images.images[:limit], labels=images.labels[:limit])
        batches = [partial(self._normalised, batch) for batch in image_batches(images)]
        return HeldOut(f"{len(images):,} test images of {source.name}", "images", classes, batches)

    def in_half(self) -> "ImageBundle":
        """See `Kind`; the rewrites of a convolutional network would sum in float16, so it has no such form."""
        if isinstance(self.model, DeltaResNet):
            raise ValueError("a convolutional network has no float16 form: choose another precision")
        return replace(self, model=HalfImageClassifier(self.model))

    def _normalised(self, batch: Callable[[], Batch]) -> tuple[Tensor, Tensor]:
        images, labels = batch()
        return model_pixels(images, self.model.config), labels


def torch_outputs(model: ImageClassifier | DeltaResNet, pixels: Tensor) -> dict[str, Tensor]:
    """Return every output of the graph as torch computes it."""
    with torch.no_grad():
        return dict(zip(output_names(model.sites), WithGates(model)(pixels), strict=True))
