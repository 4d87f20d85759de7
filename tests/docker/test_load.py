"""The load generator against a service of this machine: one short run, its report and its picture."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_service import running_service


def test_a_curve_is_measured_and_written(root: Path, tmp_path: Path) -> None:
    with running_service(root, "--access-log", "off") as base:
        command = [sys.executable, "docker/load/curve.py", "--host", base, "--scenarios", "Mixed", "--users", "2"]
        result = subprocess.run(
            [*command, "--seconds", "1", "--out", str(tmp_path)],
            cwd=root, env=os.environ | {"MPLCONFIGDIR": str(tmp_path)}, capture_output=True, text=True,
        )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    row = next(
        line for line in (tmp_path / "report.md").read_text("utf-8").splitlines() if line.startswith("| Mixed | 2")
    )
    rate, failed = float(row.split(" | ")[2]), row.split(" | ")[6]
    assert rate > 5
    assert failed.startswith("0 of ")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_other_machines_are_not_loaded_by_mistake(root: Path) -> None:
    command = [sys.executable, "docker/load/curve.py", "--host", "http://192.0.2.1:8000"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--anywhere" in result.stderr


def test_streamed_texts_are_counted_once_with_the_times_of_their_tokens(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("curve", root / "docker/load/curve.py")
    assert spec is not None
    assert spec.loader is not None
    curve = importlib.util.module_from_spec(spec)
    sys.modules["curve"] = curve
    spec.loader.exec_module(curve)

    def row(count: int, failures: int, rate: float, time: float) -> dict[str, str]:
        times = {"50%": str(time), "95%": str(time * 2), "99%": str(time * 3)}
        return times | {"Request Count": str(count), "Failure Count": str(failures), "Requests/s": str(rate)}

    rows = {
        "whole text": row(10, 0, 1.0, 320),
        curve.FIRST_TOKEN: row(10, 0, 1.0, 20),
        curve.NEXT_TOKEN: row(310, 0, 31.0, 9),
        curve.TOTAL: row(340, 1, 34.0, 9),
    }
    point = curve.point("Completions", 4, rows)
    assert (point.requests, point.failures, point.rate, point.p99) == (10, 1, 1.0, 960)
    assert (point.first, point.between, point.tokens) == ((20, 60), (9, 27), pytest.approx(32))
    assert "| Completions | 4 | 1.0 | 320 | 640 | 960 | 1 of 10 | 20, 60 | 9, 27 | 32 |" in curve.report(
        [point], "h", 5
    )
