"""What a loop has done, in plain numbers for whoever publishes them."""

from dataclasses import dataclass


@dataclass(slots=True)
class LoopCounts:
    """What the loop has done since it began."""

    admitted: int = 0
    completed: int = 0
    cancelled: int = 0
    expired: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    answer_tokens: int = 0
    prefill_steps: int = 0
    decode_steps: int = 0
    decode_rows: int = 0
    exchanges: int = 0
