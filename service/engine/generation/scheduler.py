"""Which rows a step computes: decisions from lengths and limits alone, without time, tensors or threads."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

_MOST_PASSED_OVER = 4
"""Chunks of shorter prompts that may go before a longer one's, one after the other."""
_MOST_PADDING = 2
"""Short prompts are computed together as long as padding does not make more than so many times their tokens."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that is being computed, in its slot: `length` tokens are in the cache, `left` are not.

    `split` is a length at which a chunk must end, 0 if there is none ahead; `passed_over` counts the chunks that went
    before it.
    """

    slot: int
    length: int
    left: int
    split: int = 0
    passed_over: int = 0

    @property
    def chunk(self) -> int:
        """Tokens that may be computed in one go, by the prompt itself."""
        return min(self.left, self.split - self.length) if self.split > self.length else self.left


@dataclass(frozen=True, slots=True)
class Chunk:
    """A prefill step: `counts` tokens for each slot from `first` on."""

    first: int
    counts: tuple[int, ...]


def plan_prefill(prompts: Sequence[Prompt], decoding: int, step_tokens: int) -> Chunk | None:
    """Choose the next part of the prompts, in the order in which they came, beside `decoding` rows of a token each.

    The shortest goes first, so that it need not wait for a long one, but not for ever. Prompts that begin and lie side
    by side go together; the graph takes no other company.
    """
    if not prompts:
        return None
    budget = max(1, step_tokens - decoding)
    head = next((prompt for prompt in prompts if prompt.passed_over >= _MOST_PASSED_OVER), None)
    head = head or min(prompts, key=lambda prompt: prompt.left)
    first, counts = head.slot, [min(head.chunk, budget)]
    if head.length or counts[0] < head.chunk:
        return Chunk(first, tuple(counts))
    beginning = {prompt.slot: prompt.chunk for prompt in prompts if not prompt.length}
    for direction in (-1, 1):
        while (beside := first - 1 if direction < 0 else first + len(counts)) in beginning:
            longer = [beginning[beside], *counts] if direction < 0 else [*counts, beginning[beside]]
            padded = len(longer) * max(longer)
            if padded > budget or padded > _MOST_PADDING * sum(longer):
                break
            first, counts = min(first, beside), longer
    return Chunk(first, tuple(counts))


def plan_exchanges(decoding: Collection[int], prefilling: Collection[int]) -> list[tuple[int, int]]:
    """Say which slots change places so that the rows that decode lie as close to the first slot as they can.

    A step computes all rows up to the last that decodes; gaps cost as much as answers do. Prompts stay where they are.
    """
    behind = sorted(decoding, reverse=True)
    gaps = [slot for slot in range(max(decoding, default=0)) if slot not in decoding and slot not in prefilling]
    return [(source, gap) for source, gap in zip(behind, gaps, strict=False) if gap < source]
