from typing import Any

import pytest

from service.engine.job import BatchLimits
from service.engine.scheduler import Scheduler, Step
from tests.service.fakes import Caller


def fill(limits: BatchLimits, *callers: Caller) -> Scheduler:
    scheduler = Scheduler(limits)
    for caller in callers:
        caller.job.key = caller.job.outputs if caller.job.outputs != ("total",) else None
        scheduler.add(caller.job)
    return scheduler


def named(callers: list[Caller], step: Step) -> tuple[list[int], list[int], list[int], float | None]:
    """Give the jobs of a step as positions in `callers`."""
    places = {id(caller.job): place for place, caller in enumerate(callers)}
    jobs = (step.batch, step.gone, step.expired)
    batch, gone, expired = ([places[id(job)] for job in group] for group in jobs)
    return batch, gone, expired, step.wake_at


@pytest.mark.parametrize(
    ("limits", "callers", "batches"),
    [
        pytest.param({}, [{}], [[0]], id="one"),
        pytest.param({}, [{}, {}, {}], [[0, 1, 2]], id="all that wait"),
        pytest.param({"max_rows": 2}, [{}, {}, {}], [[0, 1], [2]], id="at most max_rows"),
        pytest.param({"max_rows": 1}, [{}, {}], [[0], [1]], id="batching off"),
        pytest.param({"max_rows": 4}, [{"rows": 3}, {"rows": 2}, {}], [[0], [1, 2]], id="no job is split or overtaken"),
        pytest.param({"max_rows": 4}, [{"rows": 9}, {}], [[0], [1]], id="a large request runs alone"),
        pytest.param({}, [{}, {"outputs": ("y3",)}, {}], [[0, 2], [1]], id="other outputs run apart"),
        pytest.param({}, [{"outputs": ("total",)}, {"outputs": ("total",)}, {}], [[0], [1], [2]], id="alone"),
        pytest.param({}, [{}, {"outputs": ("total",)}, {}], [[0, 2], [1]], id="one that runs alone lets others pass"),
        pytest.param({"max_rows": 2}, [{"priority": 3}, {}, {"priority": 1}, {}], [[2, 1], [3, 0]], id="priorities"),
        pytest.param({"max_rows": 2}, [{"priority": 2}, {"priority": 0}, {"priority": 9}], [[0, 1], [2]], id="default"),
        pytest.param({"preferred_rows": (2, 4)}, [{}] * 5, [[0, 1, 2, 3], [4]], id="cut to a preferred size"),
        pytest.param({"preferred_rows": (2, 4)}, [{}] * 3, [[0, 1], [2]], id="cut to a smaller preferred size"),
        pytest.param({"preferred_rows": (8,)}, [{}] * 3, [[0, 1, 2]], id="no preferred size is reached"),
    ],
)
def test_batches(limits: dict[str, Any], callers: list[dict[str, Any]], batches: list[list[int]]) -> None:
    made = [Caller(**fields) for fields in callers]
    scheduler = fill(BatchLimits(**limits), *made)
    assert [named(made, scheduler.next(0.0)) for _ in batches] == [(batch, [], [], None) for batch in batches]
    assert (len(scheduler), scheduler.rows) == (0, 0)
    assert scheduler.next(0.0) == Step()


@pytest.mark.parametrize(
    ("limits", "arrivals", "now", "batch", "wake_at"),
    [
        pytest.param({}, [0.0], 0.0, [0], None, id="nothing is held back unless asked for"),
        pytest.param({"max_wait_ms": 5}, [0.0], 0.004, [], 0.005, id="held back for others"),
        pytest.param({"max_wait_ms": 5}, [0.0], 0.005, [0], None, id="long enough"),
        pytest.param({"max_wait_ms": 5}, [0.0, 0.004], 0.0045, [], 0.005, id="the oldest decides"),
        pytest.param({"max_wait_ms": 5, "max_rows": 2}, [0.0, 0.001], 0.001, [0, 1], None, id="full"),
        pytest.param({"max_wait_ms": 5, "preferred_rows": (2,)}, [0.0], 0.001, [], 0.005, id="below a preferred size"),
        pytest.param({"max_wait_ms": 5, "preferred_rows": (2,)}, [0.0] * 2, 0.001, [0, 1], None, id="preferred size"),
    ],
)
def test_waits(
    limits: dict[str, Any], arrivals: list[float], now: float, batch: list[int], wake_at: float | None
) -> None:
    callers = [Caller(arrived=arrived) for arrived in arrivals]
    scheduler = fill(BatchLimits(**limits), *callers)
    assert named(callers, scheduler.next(now)) == (batch, [], [], wake_at)


def test_those_who_have_gone_and_those_who_came_too_late_are_not_run() -> None:
    callers = [Caller(), Caller(deadline=1.0), Caller(deadline=1.1), Caller(deadline=0.5), Caller()]
    scheduler = fill(BatchLimits(max_rows=2), *callers)
    callers[0].hung_up = True
    callers[3].hung_up = True
    assert named(callers, scheduler.next(1.0)) == ([2, 4], [0, 3], [1], None)
    assert (len(scheduler), scheduler.rows) == (0, 0)


def test_a_deadline_ends_a_wait() -> None:
    callers = [Caller(deadline=0.002), Caller()]
    scheduler = fill(BatchLimits(max_wait_ms=5), *callers)
    assert named(callers, scheduler.next(0.0)) == ([], [], [], 0.002)
    assert named(callers, scheduler.next(0.002)) == ([], [], [0], 0.005)
    assert named(callers, scheduler.next(0.005)) == ([1], [], [], None)


def test_a_sweep_takes_out_what_is_over_and_keeps_the_order() -> None:
    callers = [Caller(), Caller(deadline=1.0), Caller(), Caller(deadline=4.0), Caller(deadline=3.0)]
    scheduler = fill(BatchLimits(), *callers)
    callers[2].hung_up = True
    assert named(callers, scheduler.sweep(2.0)) == ([], [2], [1], 3.0)
    assert named(callers, scheduler.next(2.0)) == ([0, 3, 4], [], [], None)


def test_jobs_put_back_go_first() -> None:
    callers = [Caller(), Caller(), Caller()]
    scheduler = fill(BatchLimits(max_rows=2), *callers)
    batch = scheduler.next(0.0).batch
    scheduler.put_back(batch)
    assert (len(scheduler), scheduler.rows) == (3, 3)
    assert named(callers, scheduler.next(0.0))[0] == [0, 1]


def test_discard_and_clear() -> None:
    callers = [Caller(rows=2), Caller(), Caller(priority=1)]
    scheduler = fill(BatchLimits(), *callers)
    assert scheduler.discard(callers[0].job)
    assert not scheduler.discard(callers[0].job)
    assert (len(scheduler), scheduler.rows) == (2, 2)
    assert set(map(id, scheduler.clear())) == {id(callers[1].job), id(callers[2].job)}
    assert (len(scheduler), scheduler.rows) == (0, 0)


def test_a_hold_waits_for_the_callers_just_answered_and_no_longer_than_needed() -> None:
    first, back = Caller(), [Caller() for _ in range(3)]
    scheduler = fill(BatchLimits(), first)  # came while the batch of three ran
    scheduler.answered(now=1.0, seconds=0.1, rows=3)
    assert scheduler.next(1.0).wake_at == pytest.approx(1.006)  # 6 % of 100 ms
    for caller in back[:2]:
        caller.job.key = first.job.key
        scheduler.add(caller.job)
    assert not scheduler.next(1.002).batch
    back[2].job.key = first.job.key
    scheduler.add(back[2].job)
    assert len(scheduler.next(1.003).batch) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"instances": 0}, "instances must be at least 1"),
        ({"priorities": 0}, "priorities must be at least 1"),
        ({"max_wait_ms": -1}, "max_wait_ms must not be negative"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms must not be negative"),
        ({"queue_limit": -1}, "queue_limit must not be negative"),
        ({"default_timeout_ms": -0.5}, "default_timeout_ms must not be negative"),
        ({"preferred_rows": (4, 2)}, "preferred_rows must grow"),
        ({"preferred_rows": (2, 2)}, "preferred_rows must grow"),
        ({"bucket_rows": (0, 2)}, "bucket_rows must grow, from 1"),
        ({"bucket_rows": (8, 64)}, "to max_rows=32"),
    ],
)
def test_impossible_limits_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BatchLimits(**change)


def test_buckets() -> None:
    limits = BatchLimits(bucket_rows=(1, 4, 16))
    assert [limits.padded(rows) for rows in (1, 2, 4, 5, 16, 17)] == [1, 4, 4, 16, 16, 17]
    assert BatchLimits().padded(3) == 3
