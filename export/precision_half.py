"""Networks in float16, as they are traced: weights, state and activations are halves, inputs and answers are not.

Sums stay float32 in our own operators, and in the matrix products of every runtime. Meant for NVIDIA cards; a CPU runs
such a graph too, by way of float32.
"""

from torch import Tensor

from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel
from ddl_model.observe import Observer


class HalfImageClassifier(ImageClassifier):
    """An image classifier in float16 that takes and gives float32."""

    def __init__(self, model: ImageClassifier) -> None:
        """Copy the weights of `model`, rounded; eval mode."""
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.half().eval()

    def forward(self, pixels: Tensor, observer: Observer | None = None) -> Tensor:
        """See the base class."""
        return super().forward(pixels.half(), observer).float()


class HalfLanguageModel(LanguageModel):
    """A language model in float16 whose logits are float32; its cache is float16."""

    def __init__(self, model: LanguageModel) -> None:
        """Copy the weights of `model`, rounded; eval mode."""
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.half().eval()

    def logits(self, hidden: Tensor) -> Tensor:
        """See the base class."""
        return super().logits(hidden).float()
