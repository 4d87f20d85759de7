"""A callback that is due once: in the next turn of the event loop, or at a time on a given clock."""

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls back at the earliest time that was asked for since the last call."""

    def __init__(self, callback: Callable[[], None], clock: Callable[[], float]) -> None:
        """Set nothing yet; `clock` counts in seconds."""
        self._callback = callback
        self._clock = clock
        self._handle: asyncio.Handle | None = None
        self._due = math.inf

    def soon(self) -> None:
        """Call back in the next turn."""
        if self._due != -math.inf:
            self._set(-math.inf, asyncio.get_running_loop().call_soon(self._ring))

    def at(self, time: float) -> None:
        """Call back at `time`, unless an earlier call is due."""
        if time < self._due:
            delay = max(0.0, time - self._clock())
            self._set(time, asyncio.get_running_loop().call_later(delay, self._ring))

    def stop(self) -> None:
        """Call back no more."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._due = None, math.inf

    def _set(self, due: float, handle: asyncio.Handle) -> None:
        self.stop()
        self._handle, self._due = handle, due

    def _ring(self) -> None:
        self._handle, self._due = None, math.inf
        self._callback()
