import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from service.engine.batcher import Batcher
from service.engine.job import BatchLimits, Outcome
from service.errors import CallerGone, DeadlinePassed, ModelFailed, ModelNotReady, Overloaded
from tests.service.conftest import until
from tests.service.fakes import POISON, Caller, FakeSession, ManualClock, graph

Scenario = Callable[[], Coroutine[Any, Any, None]]


def batcher_of(*sessions: FakeSession, shape: tuple[int, ...] = (-1, 2), **limits: Any) -> Batcher:
    return Batcher(sessions, graph(*shape), BatchLimits(**limits))


def dear(batcher: Batcher) -> None:
    """Let every run count as one that needs a thread."""
    batcher._costs.predict = lambda elements: 1.0  # type: ignore[method-assign]


def cheap(batcher: Batcher) -> None:
    """Let every run count as one for the event loop."""
    batcher._costs.predict = lambda elements: 0.0  # type: ignore[method-assign]


@pytest.fixture(params=[dear, cheap])
def price(request: pytest.FixtureRequest) -> Callable[[Batcher], None]:
    """Return what makes runs dear or cheap."""
    return request.param  # type: ignore[no-any-return]


async def run(batcher: Batcher, *callers: Caller) -> None:
    """Submit jobs in one turn of the loop and wait until all are finished."""
    for caller in callers:
        batcher.submit(caller.job)
    await until(lambda: all(caller.outcomes for caller in callers))
    await until(lambda: (batcher.waiting, batcher.running) == (0, 0))


def test_requests_of_one_turn_run_together_and_get_their_own_rows(price: Callable[[Batcher], None]) -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session)
        price(batcher)
        callers = [Caller(float(i), rows=1 + i % 3) for i in range(7)]
        await run(batcher, *callers)
        for caller in callers:
            caller.check()
        assert session.runs == [13]
        batcher.close()

    asyncio.run(scenario())


def test_cheap_runs_stay_on_the_loop_and_dear_ones_leave_it() -> None:
    async def scenario() -> None:
        for price, here in ((cheap, True), (dear, False)):
            session = FakeSession()
            batcher = batcher_of(session)
            price(batcher)
            await run(batcher, Caller())
            assert (threading.get_ident() in session.threads) is here
            batcher.close()

    asyncio.run(scenario())


def test_what_runs_cost_is_learned_from_the_first() -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session)
        await run(batcher, Caller())
        assert threading.get_ident() not in session.threads  # nothing was known
        session.threads.clear()
        await run(batcher, Caller())
        assert session.threads == {threading.get_ident()}
        batcher.close()

    asyncio.run(scenario())


def test_what_comes_while_a_batch_runs_is_the_next_batch() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session)
        dear(batcher)
        first, rest = Caller(), [Caller(float(i)) for i in range(5)]
        batcher.submit(first.job)
        await until(lambda: batcher.running)
        for caller in rest:
            batcher.submit(caller.job)
        assert (batcher.waiting, batcher.running) == (5, 1)
        session.gate.set()
        await until(lambda: rest[-1].outcomes)
        assert session.runs == [1, 5]
        for caller in (first, *rest):
            caller.check()
        batcher.close()

    asyncio.run(scenario())


def test_instances_run_at_the_same_time() -> None:
    async def scenario() -> None:
        sessions = [FakeSession(open_gate=False) for _ in range(2)]
        batcher = batcher_of(*sessions, max_rows=1, instances=2)
        dear(batcher)
        callers = [Caller(float(i)) for i in range(3)]
        for caller in callers:
            batcher.submit(caller.job)
        await until(lambda: all(session.runs for session in sessions))
        assert (batcher.waiting, batcher.running) == (1, 2)
        for session in sessions:
            session.gate.set()
        await until(lambda: all(caller.outcomes for caller in callers))
        for caller in callers:
            caller.check()
        batcher.close()

    asyncio.run(scenario())


def test_batches_are_filled_up_to_a_bucket(price: Callable[[Batcher], None]) -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session, bucket_rows=(1, 4, 8))
        price(batcher)
        callers = [Caller(float(i)) for i in range(3)]
        await run(batcher, *callers)
        await run(batcher, single := Caller(5.0, rows=2))
        for caller in (*callers, single):
            caller.check()
        assert session.runs == [4, 4]
        assert sorted(batcher.statistics.batches) == [2, 3]
        batcher.close()

    asyncio.run(scenario())


def test_a_bad_request_costs_its_neighbours_nothing_but_time(price: Callable[[Batcher], None]) -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session)
        price(batcher)
        callers = [Caller(1.0), Caller(POISON), Caller(3.0)]
        await run(batcher, *callers)
        callers[0].check()
        callers[2].check()
        assert isinstance(callers[1].error, ModelFailed)
        assert session.runs == [3, 1, 1, 1]
        counted = batcher.statistics
        assert (counted.success.count, counted.fail.count, counted.execution_count) == (2, 1, 2)
        batcher.close()

    asyncio.run(scenario())


def test_an_unforeseen_exception_is_logged_and_answered(
    price: Callable[[Batcher], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        session = FakeSession()
        session.on_run = lambda x: [][0]
        batcher = batcher_of(session)
        price(batcher)
        await run(batcher, caller := Caller())
        assert isinstance(caller.error, ModelFailed)
        assert "IndexError" in str(caller.error)
        session.on_run = lambda x: None
        await run(batcher, caller := Caller())
        caller.check()
        batcher.close()

    asyncio.run(scenario())
    assert "could not be run" in caplog.text


def test_an_answer_that_cannot_be_handed_out_harms_nobody_else(price: Callable[[Batcher], None]) -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeSession())
        price(batcher)
        broken, good = Caller(), Caller()

        def fail(outcome: Outcome) -> None:
            broken.outcomes.append(outcome)
            raise RuntimeError("the wire is cut")

        broken.job.finish = fail
        await run(batcher, broken, good)
        good.check()
        batcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("shape", [(1, 2), (3, 2)])
def test_a_graph_with_a_fixed_first_axis_runs_one_request_at_a_time(shape: tuple[int, int]) -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session, shape=shape, bucket_rows=(8,))
        cheap(batcher)
        callers = [Caller(float(i), rows=shape[0]) for i in range(3)]
        await run(batcher, *callers)
        for caller in callers:
            caller.check()
        assert session.runs == [shape[0]] * 3
        batcher.close()

    asyncio.run(scenario())


def test_an_output_without_rows_is_computed_for_one_request_alone() -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session, bucket_rows=(8,))
        cheap(batcher)
        callers = [Caller(float(i), outputs=("total",)) for i in range(2)]
        others = [Caller(outputs=("y3",)), Caller(outputs=("y", "y3"))]
        await run(batcher, *callers, *others)
        for caller in callers:
            assert isinstance(caller.outcome, dict)
            np.testing.assert_array_equal(caller.outcome["total"], [caller.x.sum()])
        others[0].check("y3", 3.0)
        others[1].check("y3", 3.0)
        assert sorted(session.runs) == [1, 1, 8, 8]
        batcher.close()

    asyncio.run(scenario())


def test_an_output_that_has_no_rows_against_its_word_is_noticed() -> None:
    async def scenario() -> None:
        lying = graph().model_copy(update={"outputs": graph().outputs[:1]})
        lying = lying.model_copy(update={"outputs": (lying.outputs[0].model_copy(update={"name": "total"}),)})
        session = FakeSession()
        batcher = Batcher([session], lying, BatchLimits())
        cheap(batcher)
        callers = [Caller(float(i), outputs=("total",)) for i in range(2)]
        await run(batcher, *callers)
        for caller in callers:
            assert isinstance(caller.outcome, dict)
            np.testing.assert_array_equal(caller.outcome["total"], [caller.x.sum()])
        assert session.runs == [2, 1, 1]
        batcher.close()

    asyncio.run(scenario())


def test_rows_of_other_lengths_do_not_share_a_batch() -> None:
    async def scenario() -> None:
        session = FakeSession()
        batcher = batcher_of(session, shape=(-1, -1))
        cheap(batcher)
        callers = [Caller(1.0), Caller(2.0), Caller(3.0)]
        callers[1].job.feeds = {"x": (long := np.full((1, 5), 2.0, np.float32))}
        await run(batcher, *callers)
        callers[0].check()
        callers[2].check()
        assert isinstance(callers[1].outcome, dict)
        np.testing.assert_array_equal(callers[1].outcome["y"], long * 2)
        assert session.runs == [2, 1]
        batcher.close()

    asyncio.run(scenario())


def test_vanished_callers_are_not_run() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session, max_rows=4)
        dear(batcher)
        first, gone, last = Caller(), [Caller() for _ in range(96)], Caller(7.0)
        batcher.submit(first.job)
        await until(lambda: batcher.running)
        for caller in (*gone, last):
            batcher.submit(caller.job)
            caller.hung_up = caller is not last
        session.gate.set()
        await until(lambda: last.outcomes)
        last.check()
        assert session.runs == [1, 1]
        assert all(isinstance(caller.error, CallerGone) for caller in gone)
        assert batcher.statistics.cancel.count == 96
        batcher.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_but_not_because_of_those_who_have_gone() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session, queue_limit=2)
        dear(batcher)
        batcher.submit(Caller().job)
        await until(lambda: batcher.running)
        waiting = [Caller(), Caller()]
        for caller in waiting:
            batcher.submit(caller.job)
        with pytest.raises(Overloaded) as caught:
            batcher.submit(Caller().job)
        assert 1 <= int(str(caught.value.details["retry_after_seconds"])) <= 60
        assert batcher.statistics.rejected == 1
        waiting[0].hung_up = True
        batcher.submit((late := Caller(9.0)).job)
        session.gate.set()
        await until(lambda: late.outcomes)
        late.check()
        batcher.close()

    asyncio.run(scenario())


def test_the_time_to_come_back_grows_with_the_queue() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session, queue_limit=10)
        dear(batcher)
        batcher._admission.row_seconds = 0.7
        batcher.submit(Caller().job)
        await until(lambda: batcher.running)
        for _ in range(10):
            batcher.submit(Caller().job)
        with pytest.raises(Overloaded) as caught:
            batcher.submit(Caller().job)
        assert caught.value.details["retry_after_seconds"] == 7
        session.gate.set()
        await batcher.drain()

    asyncio.run(scenario())


def test_where_nothing_may_wait_a_free_worker_still_takes_a_batch() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session, queue_limit=0, max_rows=2)
        dear(batcher)
        for _ in range(2):
            batcher.submit(Caller().job)
        with pytest.raises(Overloaded):
            batcher.submit(Caller().job)
        await until(lambda: batcher.running)
        with pytest.raises(Overloaded):
            batcher.submit(Caller().job)
        session.gate.set()
        await batcher.drain()
        assert session.runs == [2]

    asyncio.run(scenario())


def test_a_deadline_is_answered_when_it_passes_not_when_the_batch_ends() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session)
        dear(batcher)
        batcher.submit((first := Caller()).job)
        await until(lambda: batcher.running)
        with pytest.raises(DeadlinePassed):
            await batcher.run({"x": np.ones((1, 2), np.float32)}, ["y"], timeout_seconds=0.02)
        assert not first.outcomes
        assert (batcher.waiting, batcher.statistics.expired, batcher.statistics.fail.count) == (0, 1, 1)
        session.gate.set()
        await until(lambda: first.outcomes)
        assert session.runs == [1]
        batcher.close()

    asyncio.run(scenario())


def test_the_default_timeout_holds_for_requests_that_name_none() -> None:
    async def scenario() -> None:
        clock = ManualClock(100.0)
        batcher = Batcher([FakeSession()], graph(), BatchLimits(default_timeout_ms=1500), clock=clock)
        batcher.submit((hurried := Caller(deadline=100.2)).job)
        batcher.submit((plain := Caller()).job)
        assert (hurried.job.deadline, plain.job.deadline) == (100.2, 101.5)
        clock.now = 101.0
        await until(lambda: plain.outcomes)
        plain.check()
        assert isinstance(hurried.error, DeadlinePassed)
        assert "1000 ms" in str(hurried.error)
        batcher.close()

    asyncio.run(scenario())


def test_run_returns_the_answer_or_raises_the_error(price: Callable[[Batcher], None]) -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeSession())
        price(batcher)
        x = np.array([[1.0, 2.0]], np.float32)
        answer = await batcher.run({"x": x}, ["y3", "y"])
        assert list(answer) == ["y3", "y"]
        np.testing.assert_array_equal(answer["y"], x * 2)
        with pytest.raises(ModelFailed):
            await batcher.run({"x": x * 0 + POISON}, ["y"])
        batcher.close()

    asyncio.run(scenario())


def test_a_caller_who_hangs_up_while_waiting_leaves_the_queue_at_once() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session)
        dear(batcher)
        batcher.submit(Caller().job)
        await until(lambda: batcher.running)
        hung_up = asyncio.Event()

        async def gone() -> None:
            await hung_up.wait()

        x = np.ones((1, 2), np.float32)
        dropped = asyncio.create_task(batcher.run({"x": x}, ["y"], gone=gone))
        cancelled = asyncio.create_task(batcher.run({"x": x}, ["y"], gone=gone))
        stays = asyncio.create_task(batcher.run({"x": x * 5}, ["y"]))
        await until(lambda: batcher.waiting == 3)
        cancelled.cancel()
        hung_up.set()
        with pytest.raises(CallerGone):
            await dropped
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert (batcher.waiting, batcher.statistics.cancel.count) == (1, 2)
        session.gate.set()
        np.testing.assert_array_equal((await stays)["y"], x * 10)
        assert session.runs == [1, 1]
        batcher.close()

    asyncio.run(scenario())


def test_a_caller_cancelled_inside_a_batch_costs_no_neighbour_its_answer() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session)
        dear(batcher)
        x = np.ones((1, 2), np.float32)
        tasks = [asyncio.create_task(batcher.run({"x": x * i}, ["y"])) for i in range(4)]
        await until(lambda: session.runs)
        tasks[1].cancel()
        tasks[2].cancel()
        session.gate.set()
        for i in (0, 3):
            np.testing.assert_array_equal((await tasks[i])["y"], x * 2 * i)
        assert session.runs == [4]
        assert tasks[1].cancelled()
        batcher.close()

    asyncio.run(scenario())


def test_draining_finishes_everything_and_then_refuses() -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session, max_rows=2)
        dear(batcher)
        callers = [Caller(float(i)) for i in range(5)]
        for caller in callers:
            batcher.submit(caller.job)
        draining = asyncio.create_task(batcher.drain())
        await until(lambda: batcher.running)
        assert not draining.done()
        session.gate.set()
        await draining
        for caller in callers:
            caller.check()
        with pytest.raises(ModelNotReady):
            batcher.submit(Caller().job)

    asyncio.run(scenario())


def test_an_idle_batcher_drains_at_once() -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeSession())
        await asyncio.wait_for(batcher.drain(), 5)
        with pytest.raises(ModelNotReady):
            batcher.submit(Caller().job)

    asyncio.run(scenario())


@pytest.mark.parametrize("value", [1.0, POISON])
def test_closing_refuses_what_waits_and_answers_what_runs(value: float) -> None:
    async def scenario() -> None:
        session = FakeSession(open_gate=False)
        batcher = batcher_of(session, max_rows=2)
        dear(batcher)
        running, waiting = [Caller(value), Caller(value)], Caller()
        for caller in (*running, waiting):
            batcher.submit(caller.job)
        await until(lambda: batcher.running)
        batcher.close()
        assert isinstance(waiting.error, ModelNotReady)
        session.gate.set()
        await until(lambda: all(caller.outcomes for caller in running))
        for caller in running:
            if value == POISON:
                assert isinstance(caller.error, ModelFailed)
            else:
                caller.check()
        await asyncio.wait_for(batcher.drain(), 5)

    asyncio.run(scenario())


def test_the_times_of_a_run_are_booked_for_each_of_its_requests(price: Callable[[Batcher], None]) -> None:
    async def scenario() -> None:
        batcher = batcher_of(FakeSession())
        price(batcher)
        await run(batcher, *[Caller(rows=2) for _ in range(3)])
        counted = batcher.statistics
        assert (counted.inference_count, counted.execution_count) == (6, 1)
        assert counted.last_inference_ms > 1_600_000_000_000
        for duration in (counted.success, counted.queue, counted.compute_infer):
            assert duration.count == 3
            assert duration.ns > 0
        assert counted.success.ns >= counted.queue.ns + counted.compute_infer.ns
        assert list(counted.batches) == [6]
        assert counted.batches[6].compute_infer.count == 1
        assert counted.compute_infer.ns == pytest.approx(3 * counted.batches[6].compute_infer.ns, abs=3)
        batcher.close()

    asyncio.run(scenario())
