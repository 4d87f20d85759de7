"""The op library, built for the tests, and graphs that need not be traced again."""

from pathlib import Path

import pytest

from export.kernels import build
from tests.export.text_checkpoint import traced

__all__ = ["kernel_build", "kernel_library", "traced"]

TEST_BUILD = build.ROOT / "build" / "kernels-test"


@pytest.fixture(scope="session")
def kernel_build() -> build.BuildReport:
    """Build the present sources for the CPU, apart from the library that the service uses."""
    try:
        return build.build(cuda="off", folder=TEST_BUILD, library=TEST_BUILD / "installed" / build.LIBRARY.name)
    except build.ToolMissing as missing:
        pytest.skip(f"THE KERNELS ARE NOT TESTED: {str(missing).splitlines()[0]}")


@pytest.fixture(scope="session")
def kernel_library(kernel_build: build.BuildReport) -> Path:
    """Return the path of the op library."""
    return kernel_build.library
