"""Stopping on request, between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stop_request() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of raising, so that a step is never cut in two.

    The handlers are put back at the first signal: a second Ctrl-C ends the process at once.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: only stop_at can end the run early
        previous.clear()
    try:
        yield received
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
