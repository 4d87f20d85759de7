"""What an operator decides about the generation of one model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationLimits:
    """Sizes and bounds of one engine.

    Args:
        slots: answers that grow at the same time; each has a place in the cache from the start.
        slot_tokens: longest text, prompt and answer, in tokens.
        step_tokens: tokens that are computed in one go; prompts longer than that come in chunks, and a token of each
            growing answer between two of them. Smaller is smoother for those who read, slower for those who wait.
        queue_limit: answers that may wait; more are refused.
        queue_tokens: tokens, of prompts and longest answers, that may wait; more are refused.
        priorities: levels of priority, 1 goes first; requests without one have the middle level.
        patience_seconds: who has waited that long goes up by one level, so that nobody waits for ever; 0 is never.

    Raises:
        ValueError: a number is out of range.
    """

    slots: int = 8
    slot_tokens: int = 2048
    step_tokens: int = 256
    queue_limit: int = 256
    queue_tokens: int = 1_000_000
    priorities: int = 3
    patience_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Hold the numbers to their ranges."""
        for name, least in (("slots", 1), ("slot_tokens", 2), ("step_tokens", 1), ("priorities", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("queue_limit", "queue_tokens", "patience_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")

    def level(self, priority: int) -> int:
        """Return the level from 0, the first, for a request's priority; unknown ones count as the default."""
        return (priority if 1 <= priority <= self.priorities else (self.priorities + 1) // 2) - 1
