"""What an operator decides about the continuing of texts, and what follows from it for one model."""

from dataclasses import dataclass

from service.engine.generation.limits import GenerationLimits
from service.errors import MemoryLimit
from service.manifest.language import LanguageModelling
from service.runtime.step_session import cache_bytes

_MOST_SLOTS = 8
"""Slots where nobody says how many: more rows of a step hardly add tokens per second on a CPU."""
_LONGEST = 2048
"""Tokens of a text where neither the operator nor the model says how long it may be."""
_LEAST = 2


@dataclass(frozen=True)
class Generation:
    """How texts are continued; 0 lets the model and the memory decide.

    Args:
        slots: answers that grow at the same time.
        slot_tokens: longest text, prompt and answer, in tokens; else what the model was trained on.
        cache_bytes: memory for the cache of one model, from which the slots follow if they are left open.
        step_tokens, queue_limit, queue_tokens, patience_seconds: see `GenerationLimits`.
    """

    slots: int = 0
    slot_tokens: int = 0
    cache_bytes: int = 1 << 30
    step_tokens: int = 256
    queue_limit: int = 256
    queue_tokens: int = 1_000_000
    patience_seconds: float = 30.0

    def limits(self, task: LanguageModelling, priorities: int) -> GenerationLimits:
        """Return the sizes for a model.

        Raises:
            MemoryLimit: not even one slot fits into the memory for the cache.
        """
        tokens = max(_LEAST, self.slot_tokens or task.context or _LONGEST)
        return GenerationLimits(
            slots=self.slots or self._slots(task, tokens),
            slot_tokens=tokens,
            step_tokens=self.step_tokens,
            queue_limit=self.queue_limit,
            queue_tokens=self.queue_tokens,
            priorities=priorities,
            patience_seconds=self.patience_seconds,
        )

    def _slots(self, task: LanguageModelling, tokens: int) -> int:
        if task.step is None:
            return 1
        size = cache_bytes(task.step.cache, tokens)
        if size > self.cache_bytes:
            raise MemoryLimit(
                f"a cache for one text of {tokens} tokens takes {size / 1e6:.1f} MB, and generation_cache_bytes is "
                f"{self.cache_bytes}: raise it, or set generation_tokens to a shorter text",
                bytes_estimate=size,
                limit_bytes=self.cache_bytes,
            )
        return min(_MOST_SLOTS, self.cache_bytes // size)
