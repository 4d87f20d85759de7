"""A request's part of a batch, and the limits that a batch keeps."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from service.errors import ServiceError

Outcome = dict[str, NDArray[Any]] | ServiceError
"""What becomes of a job: the outputs that it asked for, or why there are none."""


@dataclass(slots=True, eq=False)
class Job:
    """Rows of one request that wait for a run of the model.

    Every array in `feeds` has `rows` rows. `finish` is called exactly once, on the event loop. A job whose caller is
    `gone` is dropped unrun. `deadline` and `arrived` are seconds on the batcher's clock. `priority` 1 goes first; 0 is
    the model's default.
    """

    feeds: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]
    rows: int
    finish: Callable[[Outcome], None]
    gone: Callable[[], bool]
    priority: int = 0
    deadline: float | None = None
    arrived: float = 0.0
    key: Hashable = field(default=None, init=False)
    """Jobs with equal keys may run together; None runs alone. The batcher's business."""


@dataclass(frozen=True)
class BatchLimits:
    """What an operator decides about the batches of one model.

    Args:
        max_rows: most rows of a batch; a single request with more runs alone. 1 switches batching off.
        max_wait_ms: how long a request may be held back for others to join its batch, when a worker is free.
        preferred_rows: sizes for which nothing is held back; a larger batch is cut to the largest that it reaches.
        bucket_rows: batches are filled up with rows of zeros to the next of these sizes, so that the runtime sees few
            different shapes; empty switches this off.
        queue_limit: requests that may wait; more are refused.
        default_timeout_ms: time in the queue for requests that name none; 0 is any time.
        priorities: levels of priority, 1 goes first; requests without one have the middle level.
        instances: batches that run at the same time.

    Raises:
        ValueError: a number is out of range.
    """

    max_rows: int = 32
    max_wait_ms: float = 0.0
    preferred_rows: tuple[int, ...] = ()
    bucket_rows: tuple[int, ...] = ()
    queue_limit: int = 512
    default_timeout_ms: float = 0.0
    priorities: int = 3
    instances: int = 1

    def __post_init__(self) -> None:
        """Hold the numbers to their ranges."""
        for name in ("max_rows", "priorities", "instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_wait_ms", "queue_limit", "default_timeout_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        for name in ("preferred_rows", "bucket_rows"):
            sizes = getattr(self, name)
            if list(sizes) != sorted(set(sizes)) or any(not 1 <= size <= self.max_rows for size in sizes):
                raise ValueError(f"{name} must grow, from 1 to max_rows={self.max_rows} at most: {list(sizes)}")

    def level(self, priority: int) -> int:
        """Return the level from 0, the first, for a request's priority; unknown ones count as the default."""
        return (priority if 1 <= priority <= self.priorities else (self.priorities + 1) // 2) - 1

    def padded(self, rows: int) -> int:
        """Return the rows that a batch is filled up to."""
        return next((size for size in self.bucket_rows if size >= rows), rows)
