"""A service in a process of its own, started as everybody starts it."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 60.0


@contextmanager
def running_service(root: Path, *flags: str) -> Iterator[str]:
    """Start `python -m service` on a free port, yield its address once it is ready, and end it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "--port", str(port), *flags]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_until_ready(base, process)
            yield base
        finally:
            process.terminate()


def _wait_until_ready(base: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{base}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert process.poll() is None, "the service ended"
            assert time.monotonic() < deadline, "the service did not become ready"
            time.sleep(0.1)
