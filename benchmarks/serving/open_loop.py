"""Latency under requests that come at random, whether or not earlier ones are answered.

    python -m benchmarks.serving.open_loop http://127.0.0.1:8000 --model heavy --rates 5 20 60

wrk waits for an answer before it asks again, so its load falls when the server is slow; users do not. Arrivals are a
Poisson process, the same one for each server.
"""

import argparse
import asyncio
import random
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import report
from benchmarks.serving import payloads
from benchmarks.serving.models import MODELS, SIDE

_SHAPE = [1, 1, SIDE, SIDE]


class Clients:
    """Connections to one server; a request takes an idle one, or opens another."""

    def __init__(self, host: str, port: int, requests: list[bytes]) -> None:
        """Ask with `requests` in turn."""
        self._address = host, port
        self._requests = requests
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.milliseconds: list[float] = []
        self.refused = 0

    async def ask(self, number: int) -> None:
        """Send one request and keep the time until its answer has come."""
        start = time.perf_counter()
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        writer.write(self._requests[number % len(self._requests)])
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        self._idle.append((reader, writer))
        if head.startswith(b"http/1.1 200"):
            self.milliseconds.append((time.perf_counter() - start) * 1000)
        else:
            self.refused += 1

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()


async def load(clients: Clients, rate: float, seconds: float) -> None:
    """Start requests at random times, `rate` a second on average, and wait for all answers."""
    rng = random.Random(1)
    start, due, tasks = time.perf_counter(), 0.0, []
    while (due := due + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(clients.ask(len(tasks))))
    await asyncio.gather(*tasks)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where a service with the model answers")
    parser.add_argument("--model", choices=list(MODELS), default="heavy")
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 20.0, 60.0], help="requests per second")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each run")
    parser.add_argument("--out", type=Path, help="keep the table in a file, too")
    options = parser.parse_args()
    rows = []
    for rate in options.rates:
        clients = asyncio.run(_run(options.url, options.model, rate, options.seconds))
        times = sorted(clients.milliseconds)
        p99 = times[min(len(times) - 1, round(len(times) * 0.99))]
        mean = statistics.mean(times)
        rows.append([f"{rate:g}", str(len(times)), *map(report.number, (mean, p99)), str(clients.refused)])
    report.publish(report.table(["asked per s", "answered", "mean ms", "p99 ms", "refused"], rows), options.out)


async def _run(url: str, model: str, rate: float, seconds: float) -> Clients:
    address = urlsplit(url)
    head = [f"POST /v2/models/{model}/infer HTTP/1.1", f"Host: {address.netloc}"]
    head += payloads.FORMATS["binary"].headers(_SHAPE)
    requests = [
        "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
        for body in payloads.bodies("binary", _SHAPE)
    ]
    clients = Clients(address.hostname or "127.0.0.1", address.port or 80, requests)
    await load(clients, rate, seconds)
    clients.close()
    return clients


if __name__ == "__main__":
    main()
