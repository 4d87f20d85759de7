"""The rewrite's operator without its work, compiled for the run: what a call costs before any arithmetic."""

import subprocess
from pathlib import Path

from export.kernels import build

SOURCE = Path(__file__).with_name("empty_op.cc")


def empty_library(folder: Path) -> Path:
    """Compile `empty_op.cc` into a library for ONNX Runtime and return its path.

    Raises:
        export.kernels.build.ToolMissing: there is no C++ compiler.
        subprocess.CalledProcessError: the compiler refuses it, and has said why.
    """
    library = folder / "libddl_empty.so"
    sources = [SOURCE, build.SOURCES / "ort_contract.cc"]
    flags = ["-std=c++17", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run([build.find_compiler(), *flags, f"-I{build.SOURCES}", "-o", library, *sources], check=True)
    return library
