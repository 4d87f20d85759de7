"""How often a caller may ask: a token bucket per account for rates, a counter per account and day for quotas."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from service.errors import QuotaExhausted, RateLimited
from service.security.caller import Allowance

_DAY = 86_400
_MOST_BUCKETS = 65_536


class Limits:
    """Counts requests by account; accounts that are not limited cost nothing."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        most_buckets: int = _MOST_BUCKETS,
    ) -> None:
        """Start with full buckets; at most `most_buckets` accounts are remembered, the least recent one goes first."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._most = most_buckets
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._used: OrderedDict[str, int] = OrderedDict()
        self._day = self._today()

    def take(self, account: str, allowance: Allowance) -> None:
        """Count one request.

        Raises:
            RateLimited: the bucket is empty.
            QuotaExhausted: the day's requests are used up.
        """
        if allowance.daily:
            self._check_quota(account, allowance.daily)
        if allowance.rate:
            self._take_token(account, allowance)
        if allowance.daily:  # a request that the rate refused costs nothing of the day
            self._used[account] = self._used.get(account, 0) + 1
            self._used.move_to_end(account)
            if len(self._used) > self._most:
                self._used.popitem(last=False)

    def used(self) -> Mapping[str, int]:
        """Return today's requests of each account with a quota."""
        return dict(self._used) if self._day == self._today() else {}

    def restore(self, day: int, used: Iterable[tuple[str, int]]) -> None:
        """Take up counters of an earlier process, if they are of today."""
        if day == self._today():
            self._day = day
            self._used.update(used)

    @property
    def day(self) -> int:
        """Days since 1970-01-01 UTC of the counters."""
        return self._day

    def _take_token(self, account: str, allowance: Allowance) -> None:
        now = self._clock()
        most = max(allowance.burst, math.ceil(allowance.rate), 1)
        tokens, then = self._buckets.get(account, (float(most), now))
        # A clock that was set back must not take tokens away.
        tokens = min(most, tokens + max(0.0, now - then) * allowance.rate)
        if tokens < 1.0:
            wait = math.ceil((1.0 - tokens) / allowance.rate)
            raise RateLimited(
                f"more than {allowance.rate:g} requests a second; try again in {wait} s", retry_after_seconds=wait
            )
        self._buckets[account] = (tokens - 1.0, now)
        self._buckets.move_to_end(account)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)

    def _check_quota(self, account: str, daily: int) -> None:
        today = self._today()
        if today > self._day:  # never back: a clock that jumps about must not hand out the same day twice
            self._day = today
            self._used.clear()
        if self._used.get(account, 0) >= daily:
            wait = max(1, math.ceil((self._day + 1) * _DAY - self._wall_clock()))
            raise QuotaExhausted(f"the {daily} requests of today are used up", retry_after_seconds=wait)

    def _today(self) -> int:
        return int(self._wall_clock() // _DAY)
