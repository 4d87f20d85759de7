"""Drive the service at growing concurrency and write a report: `make load ARGS="--host http://127.0.0.1:8000"`.

Runs Locust headless once per scenario and number of users, from one process, for a bounded time; writes `report.md`
with a table and `curve.png` with throughput and latency over concurrency. Only a service on this machine is asked,
unless `--anywhere` says that the other one is yours too.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SCENARIOS = ("Classify", "InferBinary", "Gates", "Mixed", "Completions")
HERE = Path(__file__).parent
WARM_SECONDS = 2
LONGEST_SECONDS = 120
FIRST_TOKEN, NEXT_TOKEN, TOTAL = "time to first token", "between tokens", "Aggregated"


@dataclass(frozen=True)
class Point:
    """One run: times are milliseconds, `first` and `between` are those of streamed texts."""

    scenario: str
    users: int
    requests: int
    failures: int
    rate: float
    p50: float
    p95: float
    p99: float
    first: tuple[float, float] | None
    between: tuple[float, float] | None
    tokens: float


def run(host: str, scenario: str, users: int, seconds: int) -> Point:
    """Run one scenario with so many users.

    Raises:
        RuntimeError: Locust could not run it, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--host", host, "--headless",
            "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds + WARM_SECONDS}s",
            "--reset-stats", "--only-summary", "--stop-timeout", "30", "--csv", f"{folder}/run",
            "--exit-code-on-error", "0", scenario,
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90)
        stats = Path(folder, "run_stats.csv")
        if result.returncode != 0 or not stats.exists():
            raise RuntimeError(f"locust {scenario}: {(result.stdout + result.stderr)[-1500:]}")
        with stats.open(newline="") as file:
            rows = {row["Name"]: row for row in csv.DictReader(file)}
    return point(scenario, users, rows)


def point(scenario: str, users: int, rows: dict[str, dict[str, str]]) -> Point:
    """Read one run's table; a streamed text counts as one request, however many tokens it has."""
    total = rows["whole text"] if "whole text" in rows else rows[TOTAL]

    def times(name: str) -> tuple[float, float] | None:
        row = rows.get(name)
        return (float(row["50%"]), float(row["99%"])) if row else None

    return Point(
        scenario=scenario,
        users=users,
        requests=int(total["Request Count"]),
        failures=int(rows[TOTAL]["Failure Count"]),
        rate=float(total["Requests/s"]),
        p50=float(total["50%"]),
        p95=float(total["95%"]),
        p99=float(total["99%"]),
        first=times(FIRST_TOKEN),
        between=times(NEXT_TOKEN),
        tokens=sum(float(rows[name]["Requests/s"]) for name in (FIRST_TOKEN, NEXT_TOKEN) if name in rows),
    )


def report(points: Sequence[Point], host: str, seconds: int) -> str:
    """Write the table."""
    lines = [
        f"Load on {host}, {seconds} s for each line, {date.today()}, {platform.machine()} with "
        f"{cores()} cores that the load generator shares. Times in ms; of tokens p50, p99.",
        "",
        "| scenario | users | requests/s | p50 | p95 | p99 | failed | first token | between tokens | tokens/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in points:
        lines.append(
            f"| {one.scenario} | {one.users} | {one.rate:.1f} | {one.p50:.0f} | {one.p95:.0f} | {one.p99:.0f} | "
            f"{one.failures} of {one.requests} | {_pair(one.first)} | {_pair(one.between)} | "
            f"{f'{one.tokens:.0f}' if one.tokens else '-'} |"
        )
    return "\n".join(lines) + "\n"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _pair(times: tuple[float, float] | None) -> str:
    return "-" if times is None else f"{times[0]:.0f}, {times[1]:.0f}"


def plot(points: Sequence[Point], path: Path) -> None:
    """Draw throughput and 50th and 99th percentile over concurrency."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for scenario in dict.fromkeys(one.scenario for one in points):
        chosen = [one for one in points if one.scenario == scenario]
        users = [one.users for one in chosen]
        (line,) = left.plot(users, [one.rate for one in chosen], marker="o", label=scenario)
        right.plot(users, [one.p50 for one in chosen], marker="o", color=line.get_color(), label=f"{scenario} p50")
        right.plot(users, [one.p99 for one in chosen], marker="^", linestyle="--", color=line.get_color())
    left.set(title="Throughput", xlabel="users at once", ylabel="requests/s", xscale="log")
    right.set(title="Latency: p50, and p99 dashed", xlabel="users at once", ylabel="ms", xscale="log", yscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.set_xticks(sorted({one.users for one in points}), sorted({str(one.users) for one in points}, key=int))
        axis.minorticks_off()
    left.set_ylim(bottom=0)
    left.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, and return 1 if a request failed."""
    parser = argparse.ArgumentParser(prog="make load", description="Measure the service at growing concurrency.")
    parser.add_argument("--host", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument(
        "--scenarios", nargs="+", choices=SCENARIOS, default=["Classify", "InferBinary", "Gates", "Mixed"]
    )
    parser.add_argument("--users", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64], help="numbers of users")
    parser.add_argument("--seconds", type=int, default=15, help=f"length of each run, at most {LONGEST_SECONDS}")
    parser.add_argument("--out", type=Path, default=Path("build/load"), help="folder of report.md and curve.png")
    parser.add_argument("--anywhere", action="store_true", help="allow a host other than this one")
    chosen = parser.parse_args(arguments)
    if urllib.parse.urlsplit(chosen.host).hostname not in ("127.0.0.1", "localhost", "::1") and not chosen.anywhere:
        parser.error(f"{chosen.host} is another machine; --anywhere says that you may load it")
    if not 1 <= chosen.seconds <= LONGEST_SECONDS:
        parser.error(f"--seconds must be between 1 and {LONGEST_SECONDS}")
    points = []
    for scenario in chosen.scenarios:
        for users in chosen.users:
            points.append(run(chosen.host, scenario, users, chosen.seconds))
            sys.stderr.write(f"{scenario}, {users} users: {points[-1].rate:.1f} requests/s\n")
    chosen.out.mkdir(parents=True, exist_ok=True)
    text = report(points, chosen.host, chosen.seconds)
    (chosen.out / "report.md").write_text(text)
    plot(points, chosen.out / "curve.png")
    sys.stdout.write(f"{text}\nWritten to {chosen.out}/report.md and curve.png.\n")
    return 1 if any(one.failures for one in points) else 0


if __name__ == "__main__":
    sys.exit(main())
