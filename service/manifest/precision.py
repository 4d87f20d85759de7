"""What a manifest says of weights that are not float32."""

from typing import Literal

from pydantic import Field

from service.manifest.tensors import Part


class PrecisionCost(Part):
    """What low precision costs, measured on the same images or tokens as the model in float32.

    `agreement` is the share of them whose most probable class or token is the same, `divergence` the mean
    Kullback-Leibler divergence of the answers in float32 from these, in nats. `metrics` (loss in nats, accuracy, bits
    per byte of text) need labels and are empty where there were none.
    """

    data: str
    unit: Literal["images", "tokens"]
    count: int = Field(ge=1)
    agreement: float = Field(ge=0, le=1)
    divergence: float = Field(ge=0)
    metrics: dict[str, float] = Field(default_factory=dict)
    float32_metrics: dict[str, float] = Field(default_factory=dict)

    @property
    def loss_increase(self) -> float:
        """How much larger the loss is than in float32, in nats.

        Without labels it is the divergence: what the increase would be if labels were drawn from float32's answers.
        """
        return self.metrics["loss"] - self.float32_metrics["loss"] if self.metrics else self.divergence


class Precision(Part):
    """In which numbers weights are kept, if not in float32, and what that costs and saves.

    `bytes` is the size of the graphs with their weights, `float32_bytes` that of the parameters in float32.
    """

    kind: Literal["float16", "int8", "int4"]
    bytes: int = Field(ge=1)
    float32_bytes: int = Field(ge=1)
    cost: PrecisionCost
