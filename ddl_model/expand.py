"""From embeddings to the first state X_0."""

from jaxtyping import Float
from torch import Tensor


def repeat_channels(embedding: Float[Tensor, "b t d"], value_channels: int) -> Float[Tensor, "b t d dv"]:
    """Give every value channel a copy of the embedding. Source: DDL section 3, expansion without convolution."""
    return embedding.unsqueeze(-1).expand(*embedding.shape, value_channels)
