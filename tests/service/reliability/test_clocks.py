"""The wall clock jumps: limits, deadlines and connections go by a clock that does not."""

import ast
import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.service.reliability.process import BODY, Service

HOUR, DAY = 3600, 86_400
JUMPING = """
import datetime, os, sys, time
file, real = sys.argv.pop(1), time.time
def jumped():
    return real() + float(os.stat(file).st_mtime) - 1e9
time.time = jumped
time.time_ns = lambda: int(jumped() * 1e9)
from service.__main__ import main
raise SystemExit(main())
"""
"""The service with a wall clock that is wrong by the time stamp of a file, which a test can change."""
WALL_CLOCK = {
    "api/openai/envelope.py": "answers of OpenAI's API have dates",
    "chat.py": "templates may write today's date",
    "engine/statistics.py": "the protocol's last_inference is a date",
    "gates/live/live.py": "statistics tell since when they count",
    "repository/stores/remote.py": "compared with dates of files",
    "security/__main__.py": "the end of a key is a date",
    "security/keys.py": "the end of a key is a date",
    "security/limits.py": "a quota is one of a day",
    "security/tokens.py": "the end of a token is a date",
    "telemetry/access.py": "spans have dates",
    "telemetry/otel_metrics.py": "points have dates",
}
"""The files that may ask for the date, and why."""


def test_rates_do_not_jump_with_the_wall_clock_and_quotas_are_not_handed_out_twice(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.touch()

    def jump(seconds: float) -> None:
        os.utime(clock, (0, 1e9 + seconds))

    noon = HOUR * 12 - datetime.now(UTC).timestamp() % DAY  # no midnight comes in between
    jump(noon)
    flags = ("--rate-limit", "0.01", "--rate-burst", "6", "--daily-quota", "3")
    service = start(*flags, program=("-c", JUMPING, str(clock)))

    def asked() -> tuple[int, str]:
        answer = asyncio.run(service.ask(BODY))
        return answer.status, json.loads(answer.body).get("type", "").rpartition(":")[2]

    assert [asked()[0] for _ in range(3)] == [200] * 3
    assert asked() == (429, "quota-exhausted")
    jump(noon + DAY)
    assert [asked()[0] for _ in range(3)] == [200] * 3, "a new day has its requests"
    jump(noon)
    assert asked() == (429, "quota-exhausted"), "the same day is not handed out again"
    jump(noon + 2 * DAY)
    assert asked() == (429, "rate-limited"), "two days of the wall clock are no second of the other"


def test_a_deadline_in_the_queue_does_not_jump(start: Callable[..., Service], tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.touch()
    os.utime(clock, (0, 1e9))
    service = start("--batch-wait-ms", "400", program=("-c", JUMPING, str(clock)))
    patient = json.dumps(json.loads(BODY) | {"parameters": {"timeout": 5_000_000}}).encode()

    async def scenario(seconds: float) -> int:
        waiting = asyncio.create_task(service.ask(patient))
        await asyncio.sleep(0.1)
        os.utime(clock, (0, 1e9 + seconds))
        return (await waiting).status

    for seconds in (DAY, -DAY, 0):
        assert asyncio.run(scenario(seconds)) == 200


def test_who_may_ask_for_the_date(root: Path) -> None:
    found = set()
    for path in (root / "service").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "time"
            for alias in node.names
        }
        calls = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        if imported & {"time", "time_ns"} or calls & {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}:
            found.add(path.relative_to(root / "service").as_posix())
    assert found == set(WALL_CLOCK)
