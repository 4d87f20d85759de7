"""What a loop has done, in plain numbers for whoever publishes them."""

from dataclasses import dataclass, field

from service.metrics.generation import STEP_ROWS, TOKEN_SECONDS, WAIT_SECONDS, Spread


@dataclass(slots=True)
class LoopCounts:
    """What the loop has done since it began."""

    admitted: int = 0
    completed: int = 0
    cancelled: int = 0
    expired: int = 0
    failed: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    answer_tokens: int = 0
    prefill_steps: int = 0
    decode_steps: int = 0
    decode_rows: int = 0
    exchanges: int = 0
    queue_seconds: Spread = field(default_factory=lambda: Spread(WAIT_SECONDS))
    first_token_seconds: Spread = field(default_factory=lambda: Spread(WAIT_SECONDS))
    token_seconds: Spread = field(default_factory=lambda: Spread(TOKEN_SECONDS))
    step_rows: Spread = field(default_factory=lambda: Spread(STEP_ROWS))
