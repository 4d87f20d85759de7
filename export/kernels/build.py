"""Compile the op library and put it where the service looks for it.

    python -m export.kernels.build [--cuda auto|on|off] [--arch native|90,100|...] [--clean] [--check] [--if-possible]

Needs only the standard library, a C++ compiler, cmake and ninja; nvcc for the CUDA kernels.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Cuda = Literal["auto", "on", "off"]

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "cpp"
LIBRARY = ROOT / "service" / "runtime" / "lib" / "libddl_delta.so"


def _working_folder() -> Path:
    if (ROOT / "pyproject.toml").is_file():
        return ROOT / "build"
    # Installed from a wheel: ROOT is Python's folder of packages, and no place to work in.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "deep-delta-serving"


BUILD_FOLDER = _working_folder() / "kernels"

_COMPILERS = ("c++", "g++", "clang++")
_ADVICE = """\
What this means: nothing breaks. Without the op library ONNX Runtime computes each delta rewrite from its plain body,
which takes about 3 to 20 times as long as the compiled kernel, depending on the shape.

To get the kernels, install a C++ compiler and the build tools:
    Debian, Ubuntu    sudo apt-get install g++
    Fedora, RHEL      sudo dnf install gcc-c++
    macOS             brew install gcc
    everywhere        pip install 'cmake>=3.25' ninja
then run:             python -m export.kernels.build"""


class ToolMissing(Exception):
    """A program that the build needs is not on this machine; the message says which, and how to get it."""


class BuildFailed(Exception):
    """A program of the build ended with an error; the message ends with what it printed."""


@dataclass(frozen=True)
class BuildReport:
    """What a build left behind."""

    library: Path
    status: Literal["built", "up to date"]
    seconds: float
    info: dict[str, Any]
    """What the library says of itself: `ddl_kernel_info`."""
    warning: str = ""
    """What was wished for and is not in the library."""


def build(
    *,
    cuda: Cuda = "auto",
    arch: str | None = None,
    clean: bool = False,
    folder: Path = BUILD_FOLDER,
    library: Path = LIBRARY,
) -> BuildReport:
    """Compile the library, unless it was built from the same sources, flags and compilers before.

    Args:
        cuda: `on`: with CUDA kernels; `auto`: with them if nvcc is found; `off`: for the CPU only.
        arch: CUDA architectures as CMake takes them, separated by commas, such as `90` or `native` (the card of this
            machine). None: `native` where there is a card, else the list in CMakeLists.txt.
        clean: build even if nothing changed.
        folder: where the compiler works; two builds of one folder wait for each other.
        library: where the result goes, replaced in one step.

    Raises:
        ToolMissing: no C++ compiler, cmake or ninja; or no nvcc, with `cuda="on"`.
        BuildFailed: cmake or the compiler ended with an error.
    """
    start = time.monotonic()
    command, key = _plan(cuda, arch)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_name(folder.name + ".lock")):
        stamp = folder / "stamp.json"
        if not clean and _is_current(stamp, key, library):
            return BuildReport(library, "up to date", time.monotonic() - start, library_info(library))
        # From nothing: what CMake remembers of another compiler or other architectures must not survive.
        shutil.rmtree(folder, ignore_errors=True)
        nvcc = find_nvcc()
        # By the environment: CMake tries such a compiler out, and takes one that was named as an option for granted.
        _run([*command, "-B", os.fspath(folder)], {"CUDACXX": nvcc} if nvcc else {})
        _run([find_tool("cmake"), "--build", os.fspath(folder)])
        _install(folder / library.name, library)
        stamp.write_text(json.dumps({"key": key, "library": _sha256(library)}), encoding="utf-8")
    info = library_info(library)
    warning = ""
    if cuda == "auto" and nvcc is not None and "CUDAExecutionProvider" not in info["providers"]:
        warning = f"{nvcc} does not work, so there are no CUDA kernels: --cuda on shows why"
    return BuildReport(library, "built", time.monotonic() - start, info, warning)


def check(folder: Path = BUILD_FOLDER, *, require_cuda: bool = False) -> str:
    """Run `check_delta` of a finished build: every backend against float64. Returns what it printed.

    Raises:
        BuildFailed: a backend is wrong, or `require_cuda` and there is no card to check the CUDA kernels on.
    """
    return _run([os.fspath(folder / "check_delta"), *(["--require-cuda"] if require_cuda else [])])


def library_info(library: Path) -> dict[str, Any]:
    """Return what a library says of itself."""
    describe = ctypes.CDLL(os.fspath(library)).ddl_kernel_info
    describe.restype = ctypes.c_char_p
    info: dict[str, Any] = json.loads(describe())
    return info


def find_compiler() -> str:
    """Return the path of the C++ compiler: `$CXX`, or the first of c++, g++, clang++.

    Raises:
        ToolMissing: there is none.
    """
    names = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
    for name in names:
        if path := shutil.which(name):
            return path
    raise ToolMissing(f"No C++ compiler was found: looked for {', '.join(names)}.\n\n{_ADVICE}")


def find_tool(name: str) -> str:
    """Return the path of cmake or ninja, that of the Python environment before that of the system.

    Raises:
        ToolMissing: there is none.
    """
    beside_python = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    if path := shutil.which(name, path=beside_python):
        return path
    raise ToolMissing(f"{name} was not found.\n\n{_ADVICE}")


def find_nvcc() -> str | None:
    """Return the path of nvcc: `$CUDACXX`, on PATH, or in the usual place; None if there is none."""
    names = (os.environ.get("CUDACXX") or "nvcc", "/usr/local/cuda/bin/nvcc")
    return next((path for name in names if (path := shutil.which(name))), None)


def has_card() -> bool:
    """Return whether this machine has an NVIDIA card with a driver."""
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


def _plan(cuda: Cuda, arch: str | None) -> tuple[list[str], str]:
    """Return the configure command without its folder, and a key that names everything the result depends on."""
    compiler = find_compiler()
    nvcc = None if cuda == "off" else find_nvcc()
    if cuda == "on" and nvcc is None:
        raise ToolMissing("nvcc was not found: install the CUDA toolkit, or set CUDACXX, or use --cuda auto")
    options = [f"-DCMAKE_CXX_COMPILER={compiler}"]
    if nvcc is None:
        options.append("-DDDL_CUDA=OFF")
    else:
        options.append(f"-DDDL_CUDA={cuda.upper()}")
        if arch is None and has_card():
            arch = "native"
        if arch is not None:
            options.append(f"-DCMAKE_CUDA_ARCHITECTURES={arch.replace(',', ';')}")
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(f"{path.name}\0{_sha256(path)}\0".encode())
    for program in filter(None, (compiler, nvcc)):
        digest.update(f"{program}\0".encode())
        digest.update(subprocess.run([program, "--version"], capture_output=True, check=False).stdout)
    digest.update("\0".join(options).encode())
    tools = [find_tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"]
    return [*tools, "-S", os.fspath(SOURCES), *options], digest.hexdigest()


def _is_current(stamp: Path, key: str, library: Path) -> bool:
    try:
        known = json.loads(stamp.read_text(encoding="utf-8"))
        return bool(known == {"key": key, "library": _sha256(library)})
    except (OSError, ValueError):
        return False


def _install(built: Path, library: Path) -> None:
    """Replace the library in one step: who has the old one loaded keeps it, nobody sees half of the new one."""
    library.parent.mkdir(parents=True, exist_ok=True)
    temporary = library.with_name(f".{library.name}.{os.getpid()}")
    shutil.copy2(built, temporary)
    os.replace(temporary, library)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise BuildFailed(f"{' '.join(command)} ended with exit status {result.returncode}:\n{result.stdout}")
    return result.stdout


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(report: BuildReport) -> str:
    """Return a report in a sentence for the console."""
    info = report.info
    ops = ", ".join(f"{op['domain']}::{op['name']} version {op['version']}" for op in info["ops"])
    cards = ", ".join(f"sm_{number}" for number in info["cuda_architectures"])
    done = "built" if report.status == "built" else "is up to date"
    lines = [
        f"{report.library} {done} ({report.seconds:.1f} s)",
        f"  ops      {ops}",
        f"  CPU      {info['isa']} is what this processor runs",
        f"  CUDA     {cards or 'not in this build'}",
    ]
    if report.warning:
        lines.append(f"WARNING: {report.warning}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.kernels.build",
        description="Compile the kernels of the delta rewrite for ONNX Runtime. Does nothing if they are up to date.",
        epilog="The library is optional: without it every model runs on the plain body in its graph, only slower.",
    )
    parser.add_argument(
        "--cuda",
        choices=("auto", "on", "off"),
        default="auto",
        help="CUDA kernels: if nvcc is found (auto, the default), always (on), never (off)",
    )
    parser.add_argument(
        "--arch",
        metavar="LIST",
        help="CUDA architectures, such as 90, '80,90', or native: the card of this machine "
        "(default: native where there is a card, else those of all current ones)",
    )
    parser.add_argument("--clean", action="store_true", help="build even if nothing changed")
    parser.add_argument(
        "--check", action="store_true", help="afterwards hold every backend against a float64 reference"
    )
    parser.add_argument(
        "--if-possible",
        action="store_true",
        help="end with success where the kernels cannot be built, after saying why: the plain body will run",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        report = build(cuda=options.cuda, arch=options.arch, clean=options.clean, folder=BUILD_FOLDER, library=LIBRARY)
        print(describe(report))
        if options.check:
            print(check(BUILD_FOLDER))
    except (ToolMissing, BuildFailed) as error:
        print(f"THE KERNELS ARE NOT BUILT.\n{error}", file=sys.stderr)
        return 0 if options.if_possible else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
