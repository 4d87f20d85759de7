import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import service
from export.kernels import build
from export.ops.contract import DOMAIN, OPS
from tests.export.conftest import TEST_BUILD


def test_library_describes_the_contract(kernel_build: build.BuildReport) -> None:
    info = kernel_build.info
    known = {(op["name"], op["version"]): op for op in info["ops"]}
    for op in OPS.values():
        described = known.pop((op.name, op.version))
        assert described["domain"] == DOMAIN
        assert described["inputs"] == list(op.inputs)
        assert described["outputs"] == list(op.outputs)
        assert described["attributes"] == op.attributes
        assert described["takes_override"] == op.takes_override
        assert described["datatypes"] == ["FP32", "FP16", "BF16"]
        assert described["value_channels"] == [1, 2**31 - 1]
    (first,) = known.values()
    assert (first["name"], first["version"], first["datatypes"]) == ("DeltaRewrite", 1, ["FP32"])
    assert info["library"] == "ddl_delta"
    assert info["providers"] == ["CPUExecutionProvider"]
    assert info["cuda_architectures"] == []
    assert info["isa"] in {"x86-64-v2", "x86-64-v3", "x86-64-v4", "baseline"}


def test_library_has_the_version_of_the_project(kernel_build: build.BuildReport) -> None:
    assert kernel_build.info["version"] == service.__version__


@pytest.mark.usefixtures("kernel_build")
def test_every_backend_agrees_with_float64() -> None:
    table = build.check(TEST_BUILD)
    assert "FAILED" not in table
    assert table.count(" ok") >= 8


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="reads the ELF file with readelf")
def test_library_needs_and_exports_little(kernel_library: Path) -> None:
    def readelf(what: str) -> str:
        command = ["readelf", what, "-W", kernel_library]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert set(re.findall(r"Shared library: \[(\w+)", readelf("-d"))) <= {"libm", "libc", "ld"}
    symbols = [line.split() for line in readelf("--dyn-syms").splitlines()]
    exported = {row[7] for row in symbols if len(row) == 8 and row[4] == "GLOBAL" and row[6] != "UND"}
    assert exported == {"RegisterCustomOps", "ddl_kernel_info"}


def test_second_build_is_skipped(kernel_build: build.BuildReport) -> None:
    before = kernel_build.library.stat().st_mtime_ns
    again = build.build(cuda="off", folder=TEST_BUILD, library=kernel_build.library)
    assert again == replace(kernel_build, status="up to date", seconds=again.seconds)
    assert again.seconds < 2
    assert kernel_build.library.stat().st_mtime_ns == before


@pytest.mark.usefixtures("kernel_build")
def test_other_sources_flags_or_library_are_not_up_to_date(
    kernel_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = TEST_BUILD / "stamp.json"
    key = json.loads(stamp.read_text())["key"]
    assert build._plan("off", None)[1] == key
    assert build._is_current(stamp, key, kernel_library)
    assert not build._is_current(stamp, "other", kernel_library)
    assert not build._is_current(tmp_path / "none.json", key, kernel_library)
    other_library = tmp_path / "library.so"
    assert not build._is_current(stamp, key, other_library)
    other_library.write_bytes(kernel_library.read_bytes() + b"\0")
    assert not build._is_current(stamp, key, other_library)

    sources = tmp_path / "cpp"
    sources.mkdir()
    for path in build.SOURCES.iterdir():
        (sources / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "SOURCES", sources)
    changed = sources / "delta.h"
    changed.write_text(changed.read_text() + "\n")
    assert build._plan("off", None)[1] != key


def test_message_without_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main([]) == 1
    assert build.main(["--if-possible"]) == 0
    message = capsys.readouterr().err
    for part in ("THE KERNELS ARE NOT BUILT", "No C++ compiler", "c++, g++, clang++", "apt-get", "dnf", "brew"):
        assert message.count(part) == 2
    with pytest.raises(build.ToolMissing, match="plain body"):
        build.build()


def test_message_without_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setattr(build, "find_compiler", lambda: "c++")
    with pytest.raises(build.ToolMissing, match="CUDA toolkit"):
        build.build(cuda="on")


@pytest.mark.usefixtures("kernel_build")
def test_failed_build_shows_the_compiler_and_keeps_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = tmp_path / "cpp"
    sources.mkdir()
    recipe = 'cmake_minimum_required(VERSION 3.25)\nmessage(FATAL_ERROR "broken here")\n'
    (sources / "CMakeLists.txt").write_text(recipe)
    library = tmp_path / "libddl_delta.so"
    library.write_bytes(b"old")
    monkeypatch.setattr(build, "SOURCES", sources)
    with pytest.raises(build.BuildFailed, match="broken here"):
        build.build(cuda="off", folder=tmp_path / "build", library=library)
    assert library.read_bytes() == b"old"
    # The command works in these folders: it must not touch those of `make kernels`.
    monkeypatch.setattr(build, "BUILD_FOLDER", tmp_path / "by command")
    monkeypatch.setattr(build, "LIBRARY", library)
    assert build.main(["--cuda", "off"]) == 1
    assert "broken here" in capsys.readouterr().err
    assert (tmp_path / "by command").is_dir()
    assert library.read_bytes() == b"old"


def test_report_names_what_was_built(kernel_build: build.BuildReport) -> None:
    report = replace(kernel_build, warning="something is missing")
    text = build.describe(report)
    for part in (str(report.library), "ai.ddl::DeltaRewrite version 1", report.info["isa"], "WARNING: something"):
        assert part in text
