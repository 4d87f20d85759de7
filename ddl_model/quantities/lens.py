"""The lens: what the model would say if the state after a site were its last.

Each state goes through the compressor, the norm and the head that the last one goes through; nothing is fitted. Where
gates were changed by interventions these are the states of the changed pass.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddl_model import delta
from ddl_model.quantities.catalogue import QuantityError
from ddl_model.quantities.head import Head


@dataclass(frozen=True, eq=False)
class _Distribution:
    """The model's words at one site, beside those that it gives in the end."""

    logprobs: Float[Tensor, "b p c"]
    final: Float[Tensor, "b p c"]
    target: Int64[Tensor, "b p"]
    top_k: int

    @cached_property
    def top(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids of the likeliest words, falling."""
        found = self.logprobs.topk(self.top_k, dim=-1)
        return found.values, found.indices

    @cached_property
    def of_target(self) -> Float[Tensor, "b p"]:
        """The target's log-probability; NaN where there is no target."""
        found = self.logprobs.gather(-1, self.target.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return torch.where(self.target < 0, torch.nan, found)

    @property
    def rank(self) -> Int64[Tensor, "b p"]:
        """How many words are likelier than the target; -1 where there is no target."""
        likelier = (self.logprobs > self.of_target.unsqueeze(-1)).sum(-1)
        return torch.where(self.target < 0, -1, likelier)


_FORMULAS: dict[str, Callable[[_Distribution], Tensor]] = {
    "lens_topk": lambda words: words.top[1],
    "lens_topk_logprob": lambda words: words.top[0],
    "lens_kl": lambda words: (words.final.exp() * (words.final - words.logprobs)).sum(-1),
    "lens_entropy": lambda words: -(words.logprobs.exp() * words.logprobs).sum(-1),
    "lens_target_logprob": lambda words: words.of_target,
    "lens_target_rank": lambda words: words.rank,
}


def lens(
    names: Collection[str],
    head: Head,
    hidden: Sequence[Float[Tensor, "b p d"]],
    final: Float[Tensor, "b p c"],
    targets: Int64[Tensor, "b p n"],
    top_k: int | None = None,
) -> dict[str, Tensor]:
    """Return the named quantities of this family, (S, b, p) or with `top_k` words behind.

    `hidden` is what the head reads after each site, `final` the logits that the model gave; without `top_k` it is 5, or
    all words where they are fewer. One site's distribution exists at a time.

    Raises:
        QuantityError: there are not `top_k` words.
    """
    wanted = [name for name in names if name in _FORMULAS]
    words = final.shape[-1]
    top_k = min(5, words) if top_k is None else top_k
    if not 1 <= top_k <= words:
        raise QuantityError(f"top_k must be between 1 and the {words} words of the model, got {top_k}")
    found: dict[str, list[Tensor]] = {name: [] for name in wanted}
    last = _logprobs(final)
    for read in hidden if wanted else ():
        site = _Distribution(_logprobs(head.logits(read)), last, targets[..., 0], top_k)
        for name in wanted:
            found[name].append(_FORMULAS[name](site))
    return {name: torch.stack(values) for name, values in found.items()}


def _logprobs(logits: Float[Tensor, "b p c"]) -> Float[Tensor, "b p c"]:
    return logits.to(delta.sum_dtype(logits.dtype)).log_softmax(-1)
