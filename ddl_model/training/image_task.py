"""Classifying images: batches, loss and measurements for every classifier of the project."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddl_model.checkpoint import ModelConfig
from ddl_model.config import DeltaMLPConfig, LanguageModelConfig
from ddl_model.observe import Observer
from ddl_model.training import fashion_mnist
from ddl_model.training.config import ImageDataConfig
from ddl_model.training.image_data import ImageSet, augment, epoch_order, erase, normalise
from ddl_model.training.task import Batch

SAMPLES = 16
"""Validation images that go into a checkpoint, to try the model on."""
OBSERVED = 500
"""Validation images whose gates are recorded."""
_EVALUATION_BATCH = 500


def model_pixels(images: Tensor, config: ModelConfig) -> Tensor:
    """Return a model's input, as floats: planes for convolutions, one vector per image for a perceptron."""
    if isinstance(config, LanguageModelConfig):
        raise TypeError("a language model takes no images")
    if isinstance(config, DeltaMLPConfig):
        return normalise(images, fashion_mnist.PIXEL_MEAN, fashion_mnist.PIXEL_STD).flatten(1)
    return normalise(images, config.pixel_mean, config.pixel_std)


class ImageTask:
    """A training set, of which some images are held out, and a test set."""

    unit = "images"
    units_per_item = 1

    def __init__(self, sets: tuple[ImageSet, ImageSet], data: ImageDataConfig, model: ModelConfig, seed: int) -> None:
        """Split off the validation images.

        Raises:
            DataError: there are too few images.
        """
        self.data, self.model_config, self.seed = data, model, seed
        self.training_set, self.validation_set = sets[0].split(data.validation_images)
        self.test_set = sets[1]
        self.items = len(self.training_set)

    def describe(self) -> dict[str, Any]:
        """See `Task`."""
        return {"name": self.data.dataset, "sha256": self.training_set.sha256(), "images": len(self.training_set)}

    def order(self, epoch: int) -> Tensor:
        """See `Task`."""
        return epoch_order(self.items, self.seed, epoch)

    def batch(self, items: Tensor, epoch: int, step: int) -> Batch:
        """See `Task`: augmented images as bytes, and their classes."""
        images = augment(self.training_set.images[items], self.data.shift_pixels, self.seed, step, self.data.mirror)
        if self.data.erase_pixels:
            images = erase(images, self.data.erase_pixels, self.seed, step)
        return images, self.training_set.labels[items]

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """See `Task`."""
        return F.cross_entropy(model(self._pixels(inputs)), labels.long())

    def held_out(self, split: str) -> Sequence[Callable[[], Batch]]:
        """See `Task`."""
        chosen = {"validation": self.validation_set, "test": self.test_set}[split]
        return image_batches(chosen)

    def measure(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """See `Task`: nats, rightly classified images, images."""
        return measure_classes(model(self._pixels(inputs)), labels)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """See `Task`: mean cross entropy in nats, and the fraction of images that are classified rightly."""
        return class_metrics(sums)

    def observe(self, model: nn.Module, observer: Observer) -> None:
        """See `Task`."""
        device = next(model.parameters()).device
        model(self._pixels(self.validation_set.images[:OBSERVED].to(device)), observer=observer)

    def samples(self) -> dict[str, Tensor]:
        """See `Task`: `pixels`, normalised, and `labels`."""
        held_out = self.validation_set
        return {"pixels": self._pixels(held_out.images[:SAMPLES]), "labels": held_out.labels[:SAMPLES].long()}

    def tokenizer(self) -> str:
        """See `Task`."""
        return ""

    def _pixels(self, images: Tensor) -> Tensor:
        return model_pixels(images, self.model_config)


def image_batches(images: ImageSet) -> list[Callable[[], Batch]]:
    """Return what makes the batches in which a set is evaluated."""
    starts = range(0, len(images), _EVALUATION_BATCH)
    return [partial(_slice, images, start, start + _EVALUATION_BATCH) for start in starts]


def measure_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sums of nats, rightly classified rows and rows."""
    nats = F.cross_entropy(logits.float(), labels.long(), reduction="sum")
    right = (logits.argmax(-1) == labels).sum()
    return torch.stack([nats.double(), right.double(), torch.tensor(len(labels), device=nats.device).double()])


def class_metrics(sums: Tensor) -> dict[str, float]:
    """Return mean cross entropy in nats and accuracy."""
    nats, right, count = sums.tolist()
    return {"loss": nats / count, "accuracy": right / count}


def _slice(images: ImageSet, start: int, stop: int) -> Batch:
    return images.images[start:stop], images.labels[start:stop]
