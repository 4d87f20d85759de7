"""What a training run is: the model, the data, the schedule."""

from dataclasses import asdict, dataclass
from typing import Any

from ddl_model.config import ImageClassifierConfig


@dataclass(frozen=True)
class TrainConfig:
    """A training run of an image classifier.

    The learning rate rises linearly over `warmup` (a fraction of all steps) to `learning_rate` and falls along a cosine
    to zero. Images are mirrored with probability one half and moved by up to `shift_pixels` each way. The last
    `validation_images` of the training set are held out.
    """

    name: str
    dataset: str
    model: ImageClassifierConfig
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    shift_pixels: int
    validation_images: int
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)
