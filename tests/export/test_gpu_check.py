from pathlib import Path

import pytest

from benchmarks import gpu_check
from export.kernels import build

SMI = """#!/bin/sh
echo 'NVIDIA H200, 575.57, 143771 MiB, 9.0'
"""
GOOD = """shapes                   cuda      float32    216  1e-07  ok
extreme values           x86-64-v4 float32    130  1e-07  ok
extreme values           cuda      bfloat16   130  1e-07  ok
cuda: NVIDIA H200
"""
BAD = "shapes                   cuda      float32    216  1e-01  FAILED at (3, 7, 1): readout is wrong\n"
TIMES = "| call | kernel |\n| --- | --- |\n| DeltaRewrite | 320 |"


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_build: build.BuildReport) -> Path:
    """Pretend a card, a build for it, and no bundle; returns the folder of the build."""
    program(tmp_path / "nvidia-smi", SMI)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(build, "build", lambda **_: kernel_build)
    monkeypatch.setattr(gpu_check, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu_check, "BUNDLES", tmp_path / "models")
    monkeypatch.setattr(gpu_check, "op_rows", lambda: ([gpu_check.Row("op", "pass", "18 calls")], TIMES))
    monkeypatch.setattr("sys.argv", ["gpu_check", "--out", str(tmp_path / "report.md")])
    return tmp_path


def test_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    assert gpu_check.main() == 3
    assert "No NVIDIA card" in capsys.readouterr().err


def test_right_kernels(card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(card / "check_delta", f"#!/bin/sh\ncat <<'END'\n{GOOD}END\n")
    assert gpu_check.main() == 0
    text = (card / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert "NVIDIA H200, 143771 MiB, compute capability 9.0, driver 575.57" in text
    for cells in (
        ("kernels against float64, in C++", "pass", "2 groups"),
        ("op", "pass", "18 calls"),
        ("bundle on the card", "not run", "no bundle under"),
    ):
        assert any(all(cell in line for cell in cells) for line in text.splitlines()), cells
    assert TIMES in text


def test_wrong_kernels(card: Path) -> None:
    program(card / "check_delta", f"#!/bin/sh\necho '{BAD}'\nexit 1\n")
    assert gpu_check.main() == 1
    text = (card / "report.md").read_text()
    assert "readout is wrong" in text
    assert "Nothing was timed." in text
    assert TIMES not in text


def test_failed_build(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise build.BuildFailed("many lines\nnvcc fatal: too old")

    monkeypatch.setattr(build, "build", fail)
    assert gpu_check.main() == 1
    assert "nvcc fatal: too old" in (card / "report.md").read_text()
