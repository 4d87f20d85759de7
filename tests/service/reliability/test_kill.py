"""The process is killed while it works: what clients see, and what the next process finds.

The service has no worker processes that could be killed alone (`docs/operations.md` says why): what restarts it is a
supervisor, such as Docker, systemd or Kubernetes.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.service.conftest import until
from tests.service.reliability.process import BODY, Service

Outcomes = Counter[int | str]


async def keep_asking(service: Service, port: int, until: asyncio.Event, outcomes: Outcomes) -> None:
    """Ask again and again, as clients do that try again; an answer counts only if it is whole and right."""
    while not until.is_set():
        try:
            answer = await service.ask()
        except (OSError, asyncio.IncompleteReadError):
            outcomes["no answer"] += 1
            await asyncio.sleep(0.02)
            continue
        if answer.status == 200:
            (tensor,) = json.loads(answer.body)["outputs"]
            assert len(tensor["data"]) == 4
        outcomes[answer.status] += 1


def counted(folder: Path) -> int:
    """Return the day's requests as they stand on the disk."""
    file = folder / "usage.json"
    return sum(json.loads(file.read_text())["used"].values()) if file.exists() else 0


def test_kill_9_under_load_loses_what_was_in_flight_and_nothing_else(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    flags = ("--usage-file", str(tmp_path / "usage.json"), "--daily-quota", "1000000")
    first = start(*flags)

    async def scenario() -> tuple[Outcomes, Outcomes, int]:
        before: Outcomes = Counter()
        after: Outcomes = Counter()
        end = asyncio.Event()
        clients = [asyncio.create_task(keep_asking(first, first.port, end, before)) for _ in range(16)]
        await until(lambda: before[200] >= 200 and counted(tmp_path))
        first.process.kill()
        await asyncio.to_thread(first.process.wait)
        kept = counted(tmp_path)
        await until(lambda: before["no answer"] >= 16)
        end.set()
        await asyncio.gather(*clients)
        # The same port at once, though connections of the dead process still linger there.
        second = await asyncio.to_thread(start, *flags, port=first.port)
        end.clear()
        clients = [asyncio.create_task(keep_asking(second, second.port, end, after)) for _ in range(16)]
        await until(lambda: after[200] >= 200)
        end.set()
        await asyncio.gather(*clients)
        return before, after, kept

    before, after, kept = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert set(before) == {200, "no answer"}
    assert set(after) == {200}
    assert counted(tmp_path) >= kept > 0, "the counts of the day did not survive"


def test_a_kill_while_nobody_asks_leaves_a_service_that_starts_again(start: Callable[..., Service]) -> None:
    first = start()
    first.process.kill()
    first.process.wait()
    second = start(port=first.port)
    assert asyncio.run(second.ask(BODY)).status == 200
