"""Run the checks of the C++ kernels under the address and the undefined behaviour sanitizer.

    python -m export.kernels.sanitize

The tests of CMakeLists.txt, compiled with both: every CPU level against float64 and, on Linux, the CUDA kernels through
an emulator. The first finding of a test ends it with a stack trace.
"""

import os
import subprocess
import sys
import time

from export.kernels import build

FOLDER = build.BUILD_FOLDER.with_name("kernels-sanitized")

_SETTINGS = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


def main() -> int:
    """Compile what changed, then test; returns the exit status."""
    start = time.monotonic()
    try:
        cmake, ctest, ninja = (build.find_tool(name) for name in ("cmake", "ctest", "ninja"))
        compiler = build.find_compiler()
    except build.ToolMissing as missing:
        print(f"THE SANITIZERS DID NOT RUN.\n{missing}", file=sys.stderr)
        return 1
    options = ["-DDDL_SANITIZE=ON", "-DDDL_CUDA=OFF", f"-DCMAKE_CXX_COMPILER={compiler}"]
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    folder = os.fspath(FOLDER)
    commands = [
        [cmake, "--log-level=WARNING", *generator, *options, "-S", os.fspath(build.SOURCES), "-B", folder],
        [cmake, "--build", folder, "--target", "check_delta"],
        [ctest, "--test-dir", folder, "--output-on-failure", "--parallel", "2"],
    ]
    for command in commands:
        status = subprocess.run(command, env={**os.environ, **_SETTINGS}, check=False).returncode
        if status != 0:
            print(f"SANITIZERS: {' '.join(command)} ended with exit status {status}", file=sys.stderr)
            return 1
    print(f"sanitizers: no finding ({time.monotonic() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
