import pytest

from service.engine.costs import Costs
from service.engine.hold import Hold


def batch(hold: Hold, now: float, rows: int, back: int, seconds: float = 0.1) -> bool:
    """Answer a batch, let `back` rows come, form the next batch; say whether the hold was on."""
    hold.answered(now, seconds, rows, 0)
    held = hold.until(0) > now
    hold.ended(back)
    return held


@pytest.mark.parametrize(("seconds", "length"), [(0.1, 0.006), (0.05, 0.003), (10.0, 0.01), (0.004, None), (0.0, None)])
def test_length(seconds: float, length: float | None) -> None:
    hold = Hold()
    hold.answered(5.0, seconds, 4, 0)
    assert hold.until(0) == (0.0 if length is None else pytest.approx(5.0 + length))


def test_is_over_when_all_are_back_beside_those_who_waited_already() -> None:
    hold = Hold()
    hold.answered(1.0, 0.1, rows=3, waiting_rows=2)
    assert [hold.until(rows) > 1.0 for rows in (2, 4, 5)] == [True, True, False]


def test_callers_who_come_back_are_waited_for_every_time() -> None:
    hold = Hold()
    assert all(batch(hold, float(now), 8, 8) for now in range(50))


def test_where_nobody_comes_back_holds_are_only_tried_at_times() -> None:
    hold = Hold()
    held = [batch(hold, float(now), 8, 0) for now in range(200)]
    assert all(held[:3])
    assert 5 <= sum(held[20:]) <= 15


def test_few_callers_in_time_do_not_pay() -> None:
    """Open-loop traffic: of those who come during a batch, 6 % come during its hold."""
    hold = Hold()
    held = [batch(hold, float(now), 16, 1) for now in range(200)]
    assert sum(held[20:]) <= 15


def test_callers_who_start_to_come_back_are_noticed() -> None:
    hold = Hold()
    for now in range(100):
        batch(hold, float(now), 8, 0)
    held = [batch(hold, float(now), 8, 8) for now in range(100, 140)]
    assert all(held[-5:])


def test_costs_are_learned_by_size() -> None:
    costs = Costs()
    assert costs.predict(100) is None
    costs.observe(100, 0.001)
    assert costs.predict(120) == 0.001  # 64 to 127 are one size
    assert costs.predict(10) == 0.001  # smaller: no more than that
    assert costs.predict(1000) == pytest.approx(0.008)  # three doublings
    for _ in range(20):
        costs.observe(1000, 0.002)
    assert costs.predict(1000) == pytest.approx(0.002)
    costs.observe(1000, 0.1)  # somebody else had the processor
    assert costs.predict(1000) < 0.005
    costs.observe(1000, 0.002)
    assert costs.predict(1000) < 0.004
    for _ in range(300):
        costs.observe(1000, 0.01)
    assert costs.predict(1000) > 0.009
    for _ in range(100):
        costs.observe(100, 0.0005)
    assert costs.predict(100) == pytest.approx(0.0005, rel=0.01)
