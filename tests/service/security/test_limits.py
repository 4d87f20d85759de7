import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QuotaExhausted, RateLimited
from service.security.caller import Allowance
from service.security.limits import Limits

DAY = 86_400.0


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def accepted(limits: Limits, allowance: Allowance, times: int, account: str = "a") -> int:
    count = 0
    for _ in range(times):
        try:
            limits.take(account, allowance)
        except RateLimited:
            continue
        count += 1
    return count


def test_without_limits_nothing_is_counted() -> None:
    limits = Limits()
    assert accepted(limits, Allowance(), 10_000) == 10_000
    assert limits.used() == {}


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    allowance = Allowance(rate=2.0, burst=5)
    assert accepted(limits, allowance, 20) == 5
    clock.now = 1.0
    assert accepted(limits, allowance, 20) == 2
    clock.now = 1.4
    assert accepted(limits, allowance, 20) == 0
    clock.now = 1000.0
    assert accepted(limits, allowance, 20) == 5


def test_rates_below_one_a_second_say_how_long_to_wait() -> None:
    limits = Limits(clock=Clock())
    limits.take("a", Allowance(rate=0.1))
    with pytest.raises(RateLimited) as caught:
        limits.take("a", Allowance(rate=0.1))
    assert caught.value.details["retry_after_seconds"] == 10
    assert "0.1 requests a second" in str(caught.value)


def test_accounts_do_not_touch_each_other() -> None:
    limits = Limits(clock=Clock())
    assert accepted(limits, Allowance(rate=1.0), 3, "a") == 1
    assert accepted(limits, Allowance(rate=1.0), 3, "b") == 1


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(0, 50),
    steps=st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 40)), max_size=30),
)
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock(100.0)
    limits = Limits(clock=clock)
    most = max(burst, -(-rate // 1), 1)
    forward = 0.0
    taken = 0
    for move, times in steps:
        clock.now += move  # also backwards
        forward += max(0.0, move)
        taken += accepted(limits, Allowance(rate=rate, burst=burst), times)
    assert taken <= most + forward * rate + 1e-6


def test_the_day_has_its_quota_and_the_next_day_again() -> None:
    clock = Clock(10 * DAY + 3600)
    limits = Limits(wall_clock=clock)
    allowance = Allowance(daily=3)
    assert accepted(limits, allowance, 10) == 3
    with pytest.raises(QuotaExhausted) as caught:
        limits.take("a", allowance)
    assert caught.value.details["retry_after_seconds"] == DAY - 3600
    clock.now = 11 * DAY
    assert accepted(limits, allowance, 10) == 3


def test_a_clock_that_is_set_back_does_not_hand_out_the_day_again() -> None:
    clock = Clock(10 * DAY)
    limits = Limits(wall_clock=clock)
    assert accepted(limits, Allowance(daily=3), 10) == 3
    clock.now = 9 * DAY
    assert accepted(limits, Allowance(daily=3), 10) == 0
    clock.now = 10 * DAY + 5
    assert accepted(limits, Allowance(daily=3), 10) == 0


def test_what_the_rate_refuses_costs_nothing_of_the_day() -> None:
    clock = Clock()
    limits = Limits(clock=clock, wall_clock=clock)
    allowance = Allowance(rate=1.0, daily=2)
    assert accepted(limits, allowance, 50) == 1
    assert limits.used() == {"a": 1}


def test_memory_is_bounded_whoever_asks() -> None:
    limits = Limits(clock=Clock(), wall_clock=Clock(), most_buckets=100)
    for number in range(1000):
        limits.take(str(number), Allowance(rate=1.0, daily=5))
    assert len(limits.used()) == 100
    assert len(limits._buckets) == 100


def test_counts_of_today_are_taken_up_and_those_of_yesterday_not() -> None:
    clock = Clock(10 * DAY)
    limits = Limits(wall_clock=clock)
    limits.restore(9, [("a", 2)])
    assert limits.used() == {}
    limits.restore(10, [("a", 2)])
    assert accepted(limits, Allowance(daily=3), 10) == 1
    assert (limits.day, limits.used()) == (10, {"a": 3})
    clock.now += DAY
    assert limits.used() == {}
