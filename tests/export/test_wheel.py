"""The project as others get it: wheels with and without the op library, from the tree and from a source archive.

The build backend is called as pip calls it, without a network; the compiler's work stays in build/ between runs.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

import service
from export.kernels import build

pytest.importorskip("scikit_build_core", reason="THE WHEELS ARE NOT TESTED: pip install scikit-build-core")
pytest.importorskip("pip", reason="THE WHEELS ARE NOT TESTED: this Python has no pip to install them with")

PACKAGES = ("ddl_model", "export", "service")
LIBRARY = "service/runtime/lib/libddl_delta.so"
CALL = """
import json, sys
import scikit_build_core.build as backend
hook, folder, settings = json.loads(sys.argv[1])
print(getattr(backend, hook)(folder, settings))
"""
# What the developer has set must not decide; and there is no compiler where CXX names none.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("DDL_", "DEEP_DELTA_", "PYTHON"))}
NO_COMPILER = {"CXX": "/nowhere/c++"}


class BackendFailed(Exception):
    """The build backend ended with an error; the message is what it printed."""


def call_backend(
    hook: str, source: Path, folder: Path, settings: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> tuple[Path, str]:
    """Call a hook of PEP 517 in a process of its own; return the file that it made, and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", CALL, json.dumps([hook, str(folder), dict(settings)])]
    result = subprocess.run(
        command, cwd=source, env={**CLEAN, **(environment or {})}, capture_output=True, text=True, check=False
    )
    printed = result.stdout + result.stderr
    if result.returncode != 0:
        raise BackendFailed(printed)
    return folder / result.stdout.splitlines()[-1], printed


def members(wheel: Path) -> set[str]:
    """Return the files of the packages in a wheel."""
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def read(wheel: Path, pattern: str) -> str:
    """Return the text of the one file whose name matches."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if re.search(pattern, name))
        return archive.read(name).decode()


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the CPU kernels."""
    try:
        build.find_compiler()
    except build.ToolMissing as missing:
        pytest.skip(f"THE WHEEL WITH KERNELS IS NOT TESTED: {str(missing).splitlines()[0]}")
    settings = {"ddl.kernels": "cpu", "build-dir": str(root / "build" / "wheel-test")}
    return call_backend("build_wheel", root, tmp_path_factory.mktemp("wheel"), settings)[0]


@pytest.fixture(scope="module")
def pure_wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as a machine without a compiler does."""
    return call_backend("build_wheel", root, tmp_path_factory.mktemp("pure"), {}, NO_COMPILER)[0]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return what installs a wheel into a new environment, with the dependencies of this one, and names its folder."""

    def install_into_new(wheel: Path) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True)
        packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
        Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
        flags = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--ignore-installed"]
        subprocess.run([*pip, *flags, str(wheel)], env=CLEAN, check=True, timeout=120)
        return folder

    return install_into_new


@pytest.fixture(scope="module")
def installed(wheel: Path, install: Callable[[Path], Path]) -> Path:
    """Return the folder of an environment that the wheel with kernels is installed in."""
    return install(wheel)


def first_lines(environment: Path, root: Path, cwd: Path) -> str:
    """Start `ddl-serve` over the bundles of the project, outside it, and return what it says at its start."""
    command = [environment / "bin" / "ddl-serve", "--port", "0", "--repository", root / "models"]
    with subprocess.Popen(command, cwd=cwd, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                if line.startswith("Try it:"):
                    break
                lines.append(line)
            return "".join(lines)
        finally:
            process.terminate()


def test_the_wheel_holds_every_file_and_the_library(wheel: Path, root: Path) -> None:
    files = {
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } - {LIBRARY}
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    assert {"export/kernels/cpp/CMakeLists.txt", "export/kernels/cpp/exports.map"} <= files
    assert members(wheel) == files | {LIBRARY}


def test_the_wheel_is_for_any_python_of_this_platform(wheel: Path) -> None:
    assert re.fullmatch(r"deep_delta_serving-[^-]+-py3-none-(?!any)\w+\.whl", wheel.name)


def test_there_is_one_version(wheel: Path, tmp_path: Path) -> None:
    assert f"\nVersion: {service.__version__}\n" in read(wheel, r"\.dist-info/METADATA$")
    with ZipFile(wheel) as archive:
        library = archive.extract(LIBRARY, tmp_path)
    assert build.library_info(Path(library))["version"] == service.__version__


def test_it_serves_on_the_kernels_where_it_is_installed(installed: Path, root: Path, tmp_path: Path) -> None:
    said = first_lines(installed, root, tmp_path)
    assert re.search(r"ready +fashion-mnist version 1, kernel \(ddl_delta ", said), said


@pytest.mark.parametrize("script", ["ddl-train", "ddl-study", "ddl-export", "ddl-serve"])
def test_every_command_starts_where_it_is_installed(installed: Path, script: str, tmp_path: Path) -> None:
    command = [installed / "bin" / script, "--help"]
    result = subprocess.run(command, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {script} ")


def test_the_installed_sources_compile_elsewhere_than_in_the_packages(installed: Path, tmp_path: Path) -> None:
    code = "from export.kernels import build; print(build.SOURCES, build.LIBRARY, build.BUILD_FOLDER, sep='\\n')"
    command = [installed / "bin" / "python", "-c", code]
    environment = {**CLEAN, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    sources, library, folder = (Path(line) for line in printed.splitlines())
    assert sources.is_relative_to(installed)
    assert (sources / "CMakeLists.txt").is_file()
    assert library.is_file()
    assert folder.is_relative_to(tmp_path / "cache")


def test_without_a_compiler_the_wheel_is_pure_and_says_so(root: Path, tmp_path: Path) -> None:
    wheel, printed = call_backend("build_wheel", root, tmp_path, {}, NO_COMPILER)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in members(wheel)
    for part in ("WITHOUT THE OP LIBRARY", "plain bodies", "C++ compiler", "python -m export.kernels.build"):
        assert part in printed


def test_the_pure_wheel_serves_on_the_plain_body_and_says_so(
    pure_wheel: Path, install: Callable[[Path], Path], root: Path, tmp_path: Path
) -> None:
    said = first_lines(install(pure_wheel), root, tmp_path)
    assert re.search(r"ready +fashion-mnist version 1, PLAIN BODY, slower \(no op library at .*: build it", said), said


def test_kernels_that_were_asked_for_are_not_left_out(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="/nowhere/c"):
        call_backend("build_wheel", root, tmp_path, {"ddl.kernels": "cpu"}, NO_COMPILER)
    with pytest.raises(BackendFailed, match="no working nvcc was found"):
        call_backend("build_wheel", root, tmp_path, {"ddl.kernels": "cuda"}, {"CUDACXX": "/nowhere/nvcc"})
    assert not list(tmp_path.iterdir())


def test_kernels_may_be_left_out(root: Path, tmp_path: Path) -> None:
    wheel, printed = call_backend("build_wheel", root, tmp_path, {}, {"DEEP_DELTA_KERNELS": "off"})
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "WITHOUT THE OP LIBRARY, as asked" in printed


def test_an_unknown_choice_of_kernels_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="must be one of auto, cpu, cuda, off"):
        call_backend("build_wheel", root, tmp_path, {"ddl.kernels": "gpu"})


def test_the_source_archive_gives_the_same_wheel(root: Path, pure_wheel: Path, tmp_path: Path) -> None:
    sources, _ = call_backend("build_sdist", root, tmp_path, {})
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sources.name.removesuffix(".tar.gz")
    wheel, _ = call_backend("build_wheel", unpacked, tmp_path, {"ddl.kernels": "off"})
    assert members(wheel) == members(pure_wheel)
    assert read(wheel, r"/METADATA$") == read(pure_wheel, r"/METADATA$")
    assert (unpacked / "LICENSE").is_file()


def test_an_editable_installation_points_to_the_tree(
    root: Path, install: Callable[[Path], Path], tmp_path: Path
) -> None:
    wheel, _ = call_backend("build_editable", root, tmp_path, {})
    assert not any(name.startswith(PACKAGES) for name in members(wheel))
    python = install(wheel) / "bin" / "python"
    code = "import service; print(service.__file__, type(service.__loader__).__name__)"

    def imported(cwd: Path) -> str:
        return subprocess.run([python, "-c", code], cwd=cwd, env=CLEAN, capture_output=True, text=True).stdout.strip()

    assert imported(tmp_path) == f"{root / 'service' / '__init__.py'} SourceFileLoader"
    other = tmp_path / "other" / "service"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    assert imported(other.parent) == f"{other / '__init__.py'} SourceFileLoader"  # another checkout, worked in
