"""A long mixed load: does the service keep its memory, files and threads?

    make soak                     # half an hour
    python -m tests.service.reliability.soak --seconds 60

Clients ask for everything that is offered, make every usual mistake, hang up, and leave requests unfinished. At the end
no request may be open, files must be those of the beginning and threads nearly so (`POOL_THREADS`), and memory must not
have grown from the second quarter to the last by more than `GROWTH_BYTES`.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.service.conftest import b64, png
from tests.service.lane.test_same_answers import question
from tests.service.reliability.process import BODY, PATH, Service, binary_question, http
from tests.service.tiny_bundle import HEIGHT, WIDTH, BundleMaker

GROWTH_BYTES = 4 << 20
POOL_THREADS = 8
"""Threads that pools may still start when they are first all busy."""
CLIENTS = 12
GATES = "/v1/models/tiny/gates"


@dataclass
class Report:
    """What a soak saw: answers by kind and status, and figures of the process over time."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    resident_bytes: list[int] = field(default_factory=list)
    files: tuple[int, int] = (0, 0)
    threads: tuple[int, int] = (0, 0)
    in_flight: float = 0.0

    @property
    def growth_bytes(self) -> float:
        """The growth of memory from the second quarter of the time to the last."""
        quarter = len(self.resident_bytes) // 4
        early, late = self.resident_bytes[quarter : 2 * quarter], self.resident_bytes[-quarter:]
        return statistics.median(late) - statistics.median(early)

    def faults(self, growth_bytes: int = GROWTH_BYTES) -> list[str]:
        """Return what is not as it should be."""
        found = [
            f"{count} answers {status} to {kind}"
            for (kind, status), count in self.answers.items()
            if status not in EXPECTED[kind]
        ]
        found += [f"no {kind} was answered" for kind in EXPECTED if not any(kind == seen for seen, _ in self.answers)]
        for name, (before, after), more in (("files", self.files, 0), ("threads", self.threads, POOL_THREADS)):
            if after > before + more:
                found.append(f"{after} {name} are left, there were {before}")
        if self.growth_bytes > growth_bytes:
            found.append(f"memory grew by {self.growth_bytes / 2**20:.1f} MiB")
        if self.in_flight != 1:  # the scrape itself
            found.append(f"{self.in_flight:.0f} requests are in flight")
        return found

    def __str__(self) -> str:
        """Return the figures in lines."""
        lines = [f"{kind:12} {status}  {count}" for (kind, status), count in sorted(self.answers.items())]
        megabytes = [size / 2**20 for size in self.resident_bytes]
        lines += [
            f"memory {megabytes[0]:.1f} MiB at first, {max(megabytes):.1f} at most, {megabytes[-1]:.1f} at last; "
            f"growth {self.growth_bytes / 2**20:+.2f}",
            f"files {self.files[0]} and {self.files[1]}, threads {self.threads[0]} and {self.threads[1]}",
        ]
        return "\n".join(lines)


EXPECTED = {
    "json": {200},
    "binary": {200},
    "image": {200},
    "gates": {200},
    "metrics": {200},
    "rubbish": {400},
    "wrong shape": {400},
    "unknown": {404},
    "timeout": {200, 504},
    "hang up": {0},
    "half": {0},
}
"""Kinds of requests, and the statuses that they may have; 0 is for those that wait for no answer."""


async def _one(service: Service, kind: str, rng: random.Random) -> int:
    """Do one thing of a kind, and return the status."""
    rows = rng.choice((1, 1, 1, 2, 7))
    match kind:
        case "json":
            return (await service.ask(json.dumps(question(rng, rows)).encode())).status
        case "binary":
            body, header = binary_question(rng)
            return (await service.ask(body, header)).status
        case "image":
            picture = png(np.array(rng.choices(range(256), k=HEIGHT * WIDTH), np.uint8).reshape(HEIGHT, WIDTH))
            given = json.dumps({"image": b64(picture)}).encode()
            headers = ("Content-Type: application/json",)
            return (await service.ask(given, *headers, path="/v1/models/tiny/classify")).status
        case "gates":
            picture = png(np.array(rng.choices(range(256), k=HEIGHT * WIDTH), np.uint8).reshape(HEIGHT, WIDTH))
            return (await service.ask(picture, "Content-Type: image/png", path=GATES)).status
        case "metrics":
            return (await service.ask(b"", path="/metrics", method="GET")).status
        case "rubbish":
            return (await service.ask(rng.randbytes(rng.randrange(1, 200)))).status
        case "wrong shape":
            asked = question(rng)
            asked["inputs"][0]["shape"] = [rng.randrange(2, 1 << 60), 1, HEIGHT, WIDTH]
            return (await service.ask(json.dumps(asked).encode())).status
        case "unknown":
            return (await service.ask(BODY, path=f"/v2/models/none{rng.randrange(1 << 30)}/infer")).status
        case "timeout":
            asked = question(rng) | {"parameters": {"timeout": 1}}
            return (await service.ask(json.dumps(asked).encode())).status
        case _:
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            whole = http(PATH, BODY)
            writer.write(whole if kind == "hang up" else whole[: rng.randrange(len(whole))])
            await writer.drain()
            writer.close()
            return 0


async def _client(service: Service, rng: random.Random, end: float, report: Report) -> None:
    kinds = list(EXPECTED)
    while time.monotonic() < end:
        kind = rng.choice(kinds)
        report.answers[kind, await _one(service, kind, rng)] += 1


async def _all(service: Service, seconds: float) -> Report:
    report = Report()
    rng = random.Random(6)
    for kind in EXPECTED:  # what is made at the first use is there from now on
        await _one(service, kind, rng)
    for _ in range(2 * CLIENTS):
        await asyncio.gather(*[_one(service, kind, rng) for kind in ("json", "gates", "image")])
    files, threads = await _settled(service)
    end = time.monotonic() + seconds
    clients = [asyncio.create_task(_client(service, random.Random(seed), end, report)) for seed in range(CLIENTS)]
    while time.monotonic() < end:
        report.resident_bytes.append(service.resident_bytes())
        await asyncio.sleep(min(1.0, seconds / 40))
    await asyncio.gather(*clients)
    files_after, threads_after = await _settled(service)
    report.files, report.threads = (files, files_after), (threads, threads_after)
    report.in_flight = await service.metric("ddl_http_requests_in_flight")
    return report


async def _settled(service: Service) -> tuple[int, int]:
    """Return files and threads once connections that are closed are gone."""
    seen: Callable[[], tuple[int, int]] = lambda: (service.files(), service.threads())  # noqa: E731
    last = seen()
    for _ in range(20):
        await asyncio.sleep(0.1)
        if (now := seen()) == last:
            break
        last = now
    return last


def soak(seconds: float, folder: Path) -> Report:
    """Let a service over the tiny model, in `folder`, be asked for a time."""
    BundleMaker().write(folder)
    service = Service(folder, "--access-log", "off")
    try:
        return asyncio.run(_all(service, seconds))
    finally:
        service.stop()


def main() -> int:
    """Run from the command line; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (default: half an hour)")
    with tempfile.TemporaryDirectory() as folder:
        report = soak(parser.parse_args().seconds, Path(folder))
    faults = report.faults()
    print(report, *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
