"""How good a classifier is, and what its gates do."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from ddl_model.image_classifier import ImageClassifier
from ddl_model.observe import Observer
from ddl_model.training.image_data import ImageSet, normalise


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy in nats, and the fraction of images that are classified rightly."""

    loss: float
    accuracy: float

    def to_dict(self) -> dict[str, float]:
        """Return the JSON form."""
        return asdict(self)


@torch.no_grad()
def evaluate(model: ImageClassifier, data: ImageSet, batch_size: int = 500) -> Evaluation:
    """Classify every image in eval mode; the model's mode is put back."""
    training = model.training
    model.eval()
    loss, right = 0.0, 0
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
        logits = model(normalise(images, model.config.pixel_mean, model.config.pixel_std))
        loss += float(F.cross_entropy(logits, labels.long(), reduction="sum"))
        right += int((logits.argmax(-1) == labels).sum())
    model.train(training)
    return Evaluation(loss / len(data), right / len(data))


@torch.no_grad()
def gate_means(model: ImageClassifier, data: ImageSet, images: int = 500) -> dict[str, float]:
    """Return the mean gate of each site over the first `images` images; empty for an additive network."""
    training = model.training
    model.eval()
    observer = Observer()
    model(normalise(data.images[:images], model.config.pixel_mean, model.config.pixel_std), observer)
    model.train(training)
    return {site: float(seen.beta.mean()) for site, seen in observer.rewrites.items()}
