"""What a training run is: the model, the data, the optimizer, how long. Where it runs is in `engine`."""

from dataclasses import dataclass
from typing import Literal

from ddl_model.checkpoint import ModelConfig
from ddl_model.config import Config, LanguageModelConfig

Precision = Literal["32-true", "bf16-mixed"]
Corpus = Literal["none", "english"]


@dataclass(frozen=True)
class TextDataConfig(Config):
    """Token shards in `folder`, made by `ddl-data`.

    A row of a batch is `sequence_length` neighbouring tokens. While training, at most `validation_tokens` held-out
    tokens are evaluated; at the end, all. `corpus` names the collection that `--prepare` makes where the folder is not.
    """

    folder: str
    sequence_length: int = 256
    validation_tokens: int = 200_000
    corpus: Corpus = "none"

    def check(self) -> None:
        """See the base class."""
        self.at_least(2, "sequence_length")
        self.at_least(1, "validation_tokens")


@dataclass(frozen=True)
class ImageDataConfig(Config):
    """Labelled images. The last `validation_images` of the training set are held out.

    Training images are mirrored with probability one half (`mirror`), moved by up to `shift_pixels` each way, and lose
    a square of `erase_pixels` at a random place (cutout), which is filled with black.
    """

    dataset: Literal["fashion-mnist"] = "fashion-mnist"
    mirror: bool = True
    shift_pixels: int = 2
    erase_pixels: int = 0
    validation_images: int = 5000

    def check(self) -> None:
        """See the base class."""
        self.at_least(0, "shift_pixels", "erase_pixels")
        self.at_least(1, "validation_images")


@dataclass(frozen=True)
class OptimizerConfig(Config):
    """AdamW: matrices and kernels decay, biases, norms and whatever has one axis do not.

    The learning rate rises linearly over `warmup` (a fraction of all steps) to `learning_rate` and falls along a cosine
    to `final_fraction` of it. Gradients longer than `clip_norm` are scaled down to it; 0 leaves them alone.
    """

    learning_rate: float
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    warmup: float = 0.05
    final_fraction: float = 0.0
    clip_norm: float = 1.0

    def check(self) -> None:
        """See the base class."""
        self.require(0 < self.learning_rate < float("inf"), "learning_rate", "above 0 and finite")
        self.require(self.eps > 0, "eps", "above 0")
        for name in ("beta1", "beta2"):
            self.require(0 <= getattr(self, name) < 1, name, "at least 0 and below 1")
        for name in ("warmup", "final_fraction"):
            self.require(0 <= getattr(self, name) <= 1, name, "between 0 and 1")
        for name in ("weight_decay", "clip_norm"):
            self.require(getattr(self, name) >= 0, name, "at least 0")


@dataclass(frozen=True)
class TrainConfig(Config):
    """A training run. It lasts `epochs` passes over the data, or `steps` steps of the optimizer.

    A step sees `batch_size` rows (images, or token sequences), all devices together, in `accumulation` parts one after
    the other. The held-out data are evaluated every `evaluate_every` steps and a checkpoint is written every
    `save_every` steps and at each evaluation; with 0 both happen at the end of each epoch.
    """

    name: str
    model: ModelConfig
    data: TextDataConfig | ImageDataConfig
    optimizer: OptimizerConfig
    batch_size: int
    epochs: int = 0
    steps: int = 0
    accumulation: int = 1
    evaluate_every: int = 0
    save_every: int = 0
    precision: Precision = "32-true"
    seed: int = 0

    def check(self) -> None:
        """See the base class."""
        self.at_least(1, "batch_size", "accumulation")
        self.at_least(0, "epochs", "steps", "evaluate_every", "save_every", "seed")
        self.require((self.epochs > 0) != (self.steps > 0), "epochs", "above 0 if steps is 0, and 0 otherwise")
        self.require(self.batch_size % self.accumulation == 0, "accumulation", f"a divisor of {self.batch_size} rows")
        text = isinstance(self.data, TextDataConfig)
        self.require(text == isinstance(self.model, LanguageModelConfig), "data", "text for language models alone")
