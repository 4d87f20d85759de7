"""How a model reads words, or classes, off a state: the same modules for the last state and for every one before."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ddl_model.compress import Compressor, Reading, TokenCompress
from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel
from ddl_model.quantities.catalogue import QuantityError
from ddl_model.token_stream import TokenStream, whole_pass

NO_ATTRIBUTION = (
    "the token compressor mixes the states of several tokens: what a site adds to a logit is no token's own"
)
NO_HEAD = "only language models and image classifiers have a head that reads one state; use `trace` on them"


@dataclass(frozen=True, eq=False)
class Head:
    """Compressor, norm, linear head. Where it is `pooled`, the head reads the mean of all positions' vectors.

    `weight` holds one row per word, with the logits' scale in it.
    """

    compressor: Compressor
    norm: nn.RMSNorm
    stream: TokenStream | None
    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"] | None
    pooled: bool

    def hidden(self, state: Float[Tensor, "b t d dv"]) -> Float[Tensor, "b p d"]:
        """Return what the linear head reads: one vector per position, or one in all where it pools."""
        read: Tensor = Reading(self.compressor, self.norm, self.stream, "final.compress")(state).context
        return read.mean(1, keepdim=True) if self.pooled else read

    def logits(self, hidden: Float[Tensor, "b p d"]) -> Float[Tensor, "b p c"]:
        """Return the logits of every word."""
        return nn.functional.linear(hidden, self.weight, self.bias)

    @property
    def no_attribution(self) -> str | None:
        """Why a logit cannot be taken apart by sites, or None where it can."""
        return NO_ATTRIBUTION if isinstance(self.compressor, TokenCompress) else None


def head_of(model: LanguageModel | ImageClassifier, inputs: Tensor) -> Head:
    """Return how the model reads the states of a whole pass over the inputs."""
    compressor, norm = model.final_compress, model.final_norm
    assert isinstance(compressor, Compressor)
    if isinstance(model, LanguageModel):
        weight = model.embedding.weight * model.config.logits_scale
        return Head(compressor, norm, whole_pass(inputs), weight, None, pooled=False)
    return Head(compressor, norm, None, model.head.weight, model.head.bias, pooled=True)


def choose_targets(
    asked: str | Tensor, head: Head, inputs: Tensor, logits: Float[Tensor, "b p c"]
) -> Int64[Tensor, "b p n"]:
    """Return the words to look at in each position; -1 where there is none.

    `predicted` are the model's own likeliest, `next` the words that come next in the input: the last position has none.

    Raises:
        QuantityError: the targets have no such name, another shape, or are no words of this model.
    """
    rows, positions, words = logits.shape
    if isinstance(asked, str):
        if asked == "predicted":
            return logits.argmax(-1, keepdim=True)
        if asked == "next" and not head.pooled:
            return torch.nn.functional.pad(inputs[:, 1:], (0, 1), value=-1).unsqueeze(-1)
        known = "'predicted'" if head.pooled else "'predicted', 'next'"
        raise QuantityError(f"targets must be {known} or ids, got {asked!r}")
    lead = (rows,) if head.pooled else (rows, positions)
    if asked.shape[: len(lead)] != lead or asked.ndim - len(lead) not in (0, 1) or asked.is_floating_point():
        wanted = f"{lead} or ({', '.join(map(str, lead))}, n)"
        raise QuantityError(f"targets must be ids of shape {wanted}, got {asked.dtype} of shape {tuple(asked.shape)}")
    if bool(((asked < -1) | (asked >= words)).any()):
        raise QuantityError(f"targets must be ids below {words}, or -1 for none")
    return asked.to(torch.int64).reshape(rows, positions, -1)
