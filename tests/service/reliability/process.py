"""The real process, put into trouble: its figures from outside, and requests by plain bytes."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from tests.service.lane.conftest import Answer, read_answer
from tests.service.lane.test_same_answers import PATH, http, question
from tests.service.test_under_load import BODY

__all__ = ["BODY", "PATH", "Service", "http", "question"]


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Service:
    """`ddl-serve` as a process; ready when it was made."""

    def __init__(
        self,
        repository: Path,
        *flags: str,
        port: int = 0,
        program: Sequence[str] = ("-m", "service"),
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> None:
        self.port = port or free_port()
        settings = ["--port", str(self.port), "--repository", str(repository), "--kernel-library", "off", *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DDL_")}
        self.process = subprocess.Popen(
            [sys.executable, *program, *settings], stdout=stdout, stderr=stderr, env=environment
        )
        eventually(self._is_ready, seconds=30)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, "it ended before it was ready"
        try:
            return asyncio.run(self.ask(b"", path="/v2/health/ready", method="GET")).status == 200
        except OSError:
            return False

    async def ask(self, body: bytes = BODY, *headers: str, path: str = PATH, method: str = "POST") -> Answer:
        """Send one request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(http(path, body, *headers, method=method))
            return await read_answer(reader)
        finally:
            writer.close()

    async def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        text = (await self.ask(b"", path="/metrics", method="GET")).body.decode()
        return float(text.partition(f"\n{name} ")[2].partition("\n")[0])

    def files(self) -> int:
        """Return how many file descriptors are open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """Return how many threads there are."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def resident_bytes(self) -> int:
        """Return the memory that the process holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """Tell it to end, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)


def binary_question(rng: random.Random) -> tuple[bytes, str]:
    """Return a body with a binary tensor, and the header that tells where it begins."""
    from tests.service.lane.test_same_answers import binary

    body, length = binary(rng)
    return body, f"Inference-Header-Content-Length: {length}"
