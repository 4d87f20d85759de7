"""Live statistics by time, by row and by token; the seam of the engine."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.engine.batcher import Batcher
from service.engine.execution import execute
from service.engine.job import BatchLimits, Job
from service.gates.live.budget import Budget
from service.gates.live.live import LiveGates
from service.gates.live.windows import parse_window
from tests.service.fakes import FakeSession, ManualClock, graph
from tests.service.gates.live_gates import gates

NAMES = gates().outputs["beta"]


def live_gates(clock: ManualClock, share: float = 1.0) -> LiveGates:
    return LiveGates(gates(), None, Budget(share), clock)


def outputs(rows: int, columns: int, value: float = 1.0) -> dict[str, np.ndarray]:
    return {name: np.full((rows, columns), value, np.float32) for name in NAMES}


def test_padding_is_not_counted() -> None:
    live = live_gates(ManualClock(1e9))
    live.take(outputs(8, 5), 3, 0.0)
    seen = live.window(parse_window("1h"))
    assert (seen.runs, seen.sequences, seen.tokens, seen.fine.sum()) == (1, 3, 15, 30)


def test_stats_after_two_runs_are_their_sum() -> None:
    both, first, second = (live_gates(ManualClock(1e9)) for _ in range(3))
    for live, value in ((first, 0.5), (second, 1.5)):
        live.take(outputs(2, 3, value), 2, 0.0)
        both.take(outputs(2, 3, value), 2, 0.0)
    added = first.totals().counts
    added.add(second.totals().counts)
    np.testing.assert_array_equal(both.totals().counts.fine, added.fine)
    np.testing.assert_array_equal(both.totals().counts.buckets, added.buckets)


def test_windows_forget() -> None:
    clock = ManualClock(1e9)
    live = live_gates(clock)
    for _ in range(48):
        live.take(outputs(1, 1), 1, 0.0)
        clock.now += 1800
    clock.now -= 1800
    tokens = {text: live.window(parse_window(text)).tokens for text in ("1m", "1h", "2h", "24h")}
    assert tokens["1m"] == 1
    assert tokens["1h"] == 2
    assert 3 <= tokens["2h"] <= 4
    assert 47 <= tokens["24h"] <= 48
    assert live.totals().runs == 48
    starts = [slot.start for slot in live.slots(parse_window("24h"))]
    assert starts == sorted(starts)
    assert len(starts) == 24
    clock.now += 25 * 3600
    assert live.window(parse_window("24h")).tokens == 0


def test_steps_of_a_text_are_one_sequence() -> None:
    live = live_gates(ManualClock(1e9))
    live.take_tokens(outputs(3, 4), [4, 2, 0], [7, 9, 0], 0.0)
    for _ in range(3):
        live.take_tokens(outputs(2, 1), [1, 1], [7, 11], 0.0)
    totals = live.totals()
    assert totals.sequences == 3
    assert totals.counts.fine.sum() == 2 * (6 + 6)


def test_a_probe_never_fails(caplog: pytest.LogCaptureFixture) -> None:
    live = live_gates(ManualClock(1e9))
    live.take({}, 1, 0.0)
    assert live.totals().runs == 0
    assert "could not be counted" in caplog.text


class LookingSession(FakeSession):
    """Has gates besides, and remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []

    def run(self, feeds: Any, outputs: Sequence[str], **_: Any) -> dict[str, Any]:
        self.asked.append(tuple(outputs))
        plain = [name for name in outputs if name not in NAMES]
        found = super().run(feeds, plain)
        return found | {name: np.ones((len(feeds["x"]), 3), np.float32) for name in outputs if name in NAMES}


def job(outputs: tuple[str, ...] = ("y",)) -> Job:
    return Job({"x": np.ones((2, 2), np.float32)}, outputs, 2, lambda outcome: None, lambda: False)


def test_only_some_runs_are_looked_at_and_callers_get_what_they_asked_for() -> None:
    session, live = LookingSession(), live_gates(ManualClock(1e9))
    unlooked, budget = live_gates(ManualClock(1e9), share=0.0), {"y"}
    for probe, expected in ((None, ("y",)), (unlooked, ("y",)), (live, ("y", *NAMES))):
        run = execute(session, [job()], 2, probe)
        assert not isinstance(run.outputs, Exception)
        assert run.outputs.keys() == budget
        assert session.asked.pop() == expected
    assert live.totals().sequences == 2
    asked = execute(session, [job(("y", NAMES[0]))], 2, live)
    assert not isinstance(asked.outputs, Exception)
    assert asked.outputs.keys() == {"y", NAMES[0]}
    assert session.asked.pop() == ("y", NAMES[0], NAMES[1])


def test_a_batcher_shows_its_runs_to_the_probe() -> None:
    async def scenario() -> None:
        live = live_gates(ManualClock(1e9))
        batcher = Batcher([LookingSession()], graph(-1, 2), BatchLimits(bucket_rows=(4,)))
        batcher.probe = live
        answers = await batcher.run({"x": np.ones((3, 2), np.float32)}, ["y"])
        assert answers.keys() == {"y"}
        assert answers["y"].shape == (3, 2)
        assert live.window(parse_window("1h")).sequences == 3  # the fourth row is padding
        batcher.close()

    asyncio.run(scenario())
