"""The audit of dependencies, with a database that is told what to know."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import audit

PINS = "sound==1.0\nholey==2.0\n"


def ask(known: dict[str, list[str]]) -> audit.Ask:
    def answer(pins: Path) -> dict[str, list[str]]:
        return {line.replace("==", " "): known.get(line, []) for line in pins.read_text().split()}

    return answer


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "pins.txt"
    path.write_text(PINS)
    return path


def test_holes_fail_and_are_named(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(pins, ask({audit.CANARY: ["CVE-1"], "holey==2.0": ["CVE-2", "CVE-3"]})) == 1
    assert "holey 2.0: CVE-2, CVE-3" in capsys.readouterr().out


def test_no_holes_pass(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(pins, ask({audit.CANARY: ["CVE-1"]})) == 0
    assert "0 packages" in capsys.readouterr().out


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 1)])
def test_a_database_that_knows_nothing_is_no_clean_bill(
    pins: Path, required: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(pins, ask({}), required=required) == code
    assert "NOT AUDITED" in capsys.readouterr().err


def test_a_tool_that_fails_is_no_clean_bill(pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(pins: Path) -> dict[str, list[str]]:
        raise OSError("no such tool")

    assert audit.main(pins, fail, required=True) == 1
    assert "NOT AUDITED: pip-audit could not be run: no such tool" in capsys.readouterr().err


def test_the_tools_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "dependencies": [
            {"name": "holey", "version": "2.0", "vulns": [{"id": "CVE-2", "fix_versions": ["2.1"]}]},
            {"name": "sound", "version": "1.0", "vulns": []},
            {"name": "unknown", "skip_reason": "not found"},
        ],
        "fixes": [],
    }

    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, json.dumps(answer), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.pip_audit(Path("x")) == {"holey 2.0": ["CVE-2"], "sound 1.0": [], "unknown": []}


def test_silence_of_the_tool_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 2, "", "a\nno network\n"))
    with pytest.raises(ValueError, match="no network"):
        audit.pip_audit(Path("x"))
