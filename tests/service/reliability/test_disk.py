"""No room on the disk: for logs, the banner, the day's counts, the file of keys."""

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.reliability.process import Service, eventually

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("banner_too", [False, True])
def test_logs_that_cannot_be_written_cost_no_request(start: Callable[..., Service], *, banner_too: bool) -> None:
    with FULL.open("wb") as full:
        service = start(stderr=full, stdout=full if banner_too else subprocess.DEVNULL)
    for _ in range(3):
        assert asyncio.run(service.ask()).status == 200
        assert asyncio.run(service.ask(b"rubbish")).status == 400
    assert service.stop() == 0


def test_counts_that_cannot_be_written_are_told_and_cost_no_request(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    usage = tmp_path / "usage.json"
    service = start("--usage-file", str(usage), "--daily-quota", "1000")
    assert asyncio.run(service.ask()).status == 200
    eventually(usage.exists)
    kept = usage.read_bytes()
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # not one byte more
    assert asyncio.run(service.ask()).status == 200
    eventually(lambda: asyncio.run(service.metric("ddl_credentials_failures_total")) > 0)
    assert asyncio.run(service.ask()).status == 200
    assert usage.read_bytes() == kept
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    eventually(lambda: usage.read_bytes() != kept)
    assert list(tmp_path.iterdir()) == [usage]


def test_a_key_that_cannot_be_written_is_not_made(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"

    def create(name: str, limit: int) -> subprocess.CompletedProcess[str]:
        code = (
            f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "from service.security.__main__ import main; raise SystemExit(main())"
        )
        return subprocess.run(
            [sys.executable, "-B", "-c", code, "create", name, "--file", str(keys)],
            capture_output=True,
            text=True,
            check=False,
        )

    made = create("anna", 1 << 20)
    assert made.returncode == 0, made.stderr
    kept = keys.read_bytes()
    failed = create("berta", 16)
    assert failed.returncode not in (0, -signal.SIGXFSZ)
    assert "ddl_" not in failed.stdout, "a key was shown that nobody will know"
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "keys.json" in failed.stderr
    assert keys.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [keys]
