"""Keeps what the guard looks at fresh: keys that were changed on the disk, an issuer's keys, the day's counts."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from service.security.limits import Limits
from service.security.usage import load_usage, save_usage

_logger = logging.getLogger(__name__)

SECONDS = 2.0
"""Time between two looks; a revoked key is refused after at most this."""


class Refreshed(Protocol):
    """Something that can be read again; what it held stays if that fails."""

    def refresh(self) -> None:
        """Look whether there is something new; may block."""


class Keeper:
    """Belongs to the event loop; files and networks are touched in a thread."""

    def __init__(
        self, parts: tuple[Refreshed, ...], limits: Limits, usage: Path | None, failed: Callable[[], None]
    ) -> None:
        """Take up the counts of the day; `failed` is told of every refresh that failed."""
        self._parts = parts
        self._limits = limits
        self._usage = usage
        self._failed = failed
        self._complaints: dict[int, str] = {}
        self._saved: tuple[int, dict[str, int]] | None = None
        if usage is not None:
            day, used = load_usage(usage)
            limits.restore(day, used.items())

    async def run(self) -> None:
        """Refresh at once, then again and again, until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(SECONDS)

    async def once(self) -> None:
        """Refresh every part; the trouble of one does not touch the others."""
        for number, part in enumerate(self._parts):
            try:
                await asyncio.to_thread(part.refresh)
                self._complain(number, None)
            except Exception as error:
                self._complain(number, str(error))
        if self._usage is not None:
            # Counts are taken here, where nobody changes them meanwhile.
            counts = (self._limits.day, dict(self._limits.used()))
            if counts != self._saved:
                try:
                    await asyncio.to_thread(save_usage, self._usage, *counts)
                    self._saved = counts
                    self._complain(-1, None)
                except OSError as error:
                    self._complain(-1, f"the counts of {self._usage} cannot be written: {error.strerror}")

    def _complain(self, number: int, message: str | None) -> None:
        """Log a trouble once, and its end."""
        if message is not None:
            self._failed()
        if message == self._complaints.get(number):
            return
        if message is None:
            del self._complaints[number]
            _logger.info("credentials are read again")
        else:
            self._complaints[number] = message
            _logger.error("credentials not refreshed, the old ones stay", extra={"fields": {"reason": message}})
