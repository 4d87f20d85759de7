"""Continuing a text token by token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddl_model.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: the likeliest at temperature 0, else drawn from the `top_k` likeliest (0: from all)."""

    temperature: float = 0.8
    top_k: int = 50
    seed: int = 0


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    is_over: Callable[[list[int]], bool] = lambda _: False,
) -> list[int]:
    """Return up to `max_tokens` tokens that follow the prompt, which is not empty.

    `is_over` sees what was generated so far, after each token; the token that ends it is part of the result.
    """
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    logits, cache = model.step(torch.tensor([list(prompt)], device=device))
    generated: list[int] = []
    while len(generated) < max_tokens:
        generated.append(_choose(logits[0, -1].float(), sampling, generator))
        if is_over(generated):
            break
        if len(generated) < max_tokens:
            logits, cache = model.step(torch.tensor([generated[-1:]], device=device), cache)
    return generated


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits.argmax())
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return int(torch.multinomial((logits / sampling.temperature).softmax(-1), 1, generator=generator))
