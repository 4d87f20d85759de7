import asyncio
import threading

import pytest

from service.engine.runner import Runner
from service.errors import CallerGone, Overloaded
from tests.service.conftest import until


class Gate:
    """A call that runs until it is let go."""

    def __init__(self, value: object = None) -> None:
        self.started = threading.Event()
        self.open = threading.Event()
        self.value = value

    def __call__(self) -> object:
        self.started.set()
        assert self.open.wait(10)
        return self.value


def test_returns_the_value_and_raises_the_error_of_the_call() -> None:
    async def scenario() -> None:
        runner = Runner(1, 0)
        assert await runner.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await runner.run(lambda: 1 // 0)
        assert await runner.run(lambda: 8) == 8
        assert (runner.running, runner.waiting) == (0, 0)
        runner.close()

    asyncio.run(scenario())


def test_the_event_loop_goes_on_while_a_call_runs() -> None:
    async def scenario() -> None:
        runner = Runner(1, 0)
        gate = Gate("done")
        task = asyncio.create_task(runner.run(gate))
        await until(gate.started.is_set)
        assert not task.done()
        gate.open.set()
        assert await task == "done"
        runner.close()

    asyncio.run(scenario())


def test_at_most_workers_run_and_the_rest_wait_in_order() -> None:
    async def scenario() -> None:
        runner = Runner(2, 10)
        gates = [Gate(i) for i in range(5)]
        tasks = [asyncio.create_task(runner.run(gate)) for gate in gates]
        await until(lambda: gates[0].started.is_set() and gates[1].started.is_set())
        assert (runner.running, runner.waiting) == (2, 3)
        for i in range(5):
            gates[i].open.set()
            assert await tasks[i] == i
            if i + 2 < 5:
                await until(gates[i + 2].started.is_set)
                assert not any(gate.started.is_set() for gate in gates[i + 3 :])
        assert (runner.running, runner.waiting) == (0, 0)
        runner.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        runner = Runner(1, 1)
        gate = Gate()
        tasks = [asyncio.create_task(runner.run(gate)) for _ in range(2)]
        await until(lambda: runner.waiting == 1)
        with pytest.raises(Overloaded) as caught:
            await runner.run(lambda: None)
        assert 1 <= int(str(caught.value.details["retry_after_seconds"])) <= 60
        gate.open.set()
        await asyncio.gather(*tasks)
        assert await runner.run(lambda: 1) == 1
        runner.close()

    asyncio.run(scenario())


def test_the_estimate_grows_with_queue_and_run_time() -> None:
    runner = Runner(2, 10)
    runner._run_seconds, runner._running = 4.0, 2
    runner._waiting.extend([None] * 4)  # type: ignore[list-item]
    assert runner._retry_after() == 12  # 6 calls of 4 s on 2 workers
    runner._run_seconds = 1000.0
    assert runner._retry_after() == 60
    runner.close()


def test_a_vanished_caller_gives_up_its_place() -> None:
    async def scenario() -> None:
        runner = Runner(1, 1)
        gate, hung_up, ran = Gate(), asyncio.Event(), threading.Event()

        async def gone() -> None:
            await hung_up.wait()

        first = asyncio.create_task(runner.run(gate))
        await until(gate.started.is_set)
        dropped = asyncio.create_task(runner.run(ran.set, gone))
        await until(lambda: runner.waiting == 1)
        hung_up.set()
        with pytest.raises(CallerGone):
            await dropped
        assert runner.waiting == 0
        next_one = asyncio.create_task(runner.run(lambda: "next"))
        gate.open.set()
        assert await next_one == "next"
        await first
        assert not ran.is_set()
        runner.close()

    asyncio.run(scenario())


def test_a_cancelled_waiter_gives_up_its_place() -> None:
    async def scenario() -> None:
        runner = Runner(1, 5)
        gate, ran = Gate(), threading.Event()
        first = asyncio.create_task(runner.run(gate))
        await until(gate.started.is_set)
        waiter = asyncio.create_task(runner.run(ran.set))
        await until(lambda: runner.waiting == 1)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        gate.open.set()
        await first
        await until(lambda: runner.running == 0)
        assert await runner.run(lambda: 5) == 5
        assert not ran.is_set()
        runner.close()

    asyncio.run(scenario())


def test_a_caller_cancelled_after_its_turn_came_hands_the_worker_on() -> None:
    async def scenario() -> None:
        runner = Runner(1, 5)
        gate = Gate()
        first = asyncio.create_task(runner.run(gate))
        await until(gate.started.is_set)
        second = asyncio.create_task(runner.run(lambda: "second"))
        third = asyncio.create_task(runner.run(lambda: "third"))
        await until(lambda: runner.waiting == 2)
        hand_on = runner._hand_on

        def hand_on_and_cancel() -> None:
            runner._hand_on = hand_on  # type: ignore[method-assign]
            hand_on()
            second.cancel()  # its turn has come, but it has not noticed yet

        runner._hand_on = hand_on_and_cancel  # type: ignore[method-assign]
        gate.open.set()
        async with asyncio.timeout(5):
            assert await third == "third"
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        assert (runner.running, runner.waiting) == (0, 0)
        runner.close()

    asyncio.run(scenario())


def test_a_cancelled_caller_keeps_its_worker_busy_until_the_call_ends() -> None:
    async def scenario() -> None:
        runner = Runner(1, 5)
        gate = Gate()
        task = asyncio.create_task(runner.run(gate))
        await until(gate.started.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runner.running == 1
        gate.open.set()
        await until(lambda: runner.running == 0)
        runner.close()

    asyncio.run(scenario())
