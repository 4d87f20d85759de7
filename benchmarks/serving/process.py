"""A server in processes of its own: pinned to a core, timed from start to ready, with the CPU time it took."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_READY_SECONDS = 180.0


class Server:
    """A running server and every process it started."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], ready_url: str, core: int, log: Path
    ) -> None:
        """Start it on `core` and wait until `ready_url` answers.

        Raises:
            RuntimeError: it ended, or did not become ready in time.
        """
        start = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not _answers(ready_url):
            if self._process.poll() is not None or time.monotonic() - start > _READY_SECONDS:
                self.stop()
                said = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{' '.join(command)} did not become ready; it said:\n{said}")
            time.sleep(0.02)
        self.start_seconds = time.monotonic() - start

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and its descendants, also of those that have ended."""
        return sum(_cpu_ticks(process) for process in self._family()) / _TICKS

    def resident_bytes(self) -> int:
        """Return the memory of all processes; what several share is counted once."""
        return sum(_proportional_bytes(process) for process in self._family())

    def stop(self) -> int:
        """End it as an operator would, and kill what is left of it after ten seconds. Returns its exit status."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # nothing was left
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _family(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and (fields := _stat(int(folder.name))):
                children.setdefault(int(fields[1]), []).append(int(folder.name))
        family = [self._process.pid]
        for process in family:
            family += children.get(process, [])
        return family


def other_load(own: float, before: Sequence[int], after: Sequence[int]) -> float:
    """Return how many cores others kept busy between two readings of `machine_ticks`, beside `own` CPU seconds."""
    busy = (sum(after[:3]) - sum(before[:3])) / _TICKS
    seconds = (sum(after) - sum(before)) / _TICKS / (os.cpu_count() or 1)
    return max(0.0, busy - own) / max(seconds, 1e-9)


def wait_for_quiet(patience: float, most: float = 0.15) -> None:
    """Wait until less than `most` of the machine's cores is busy for half a second, or `patience` seconds are over."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = machine_ticks()
        time.sleep(0.5)
        if other_load(0.0, before, machine_ticks()) < most:
            return


def machine_ticks() -> list[int]:
    """Return the machine's counters of CPU time: user, nice, system, idle, waiting, interrupts, stolen."""
    return [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stat(process: int) -> list[str]:
    """Return the fields behind the name: state, parent, ...; empty if the process has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_ticks(process: int) -> int:
    fields = _stat(process)
    return sum(map(int, fields[11:15])) if fields else 0  # user and system time, of itself and of children that ended


def _proportional_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
