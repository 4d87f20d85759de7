"""Small real things that many tests start from: data, a network with lively gates, its checkpoint, its bundle."""

import os
from pathlib import Path

import pytest

# Before torch is imported: small tensors gain nothing from threads, and tests that run beside other work lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Triton is imported: without a card its kernels run in its interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ["tests.model_fixtures"]

ROOT = Path(__file__).parents[1]
SMALL_DATA = Path(__file__).parent / "data" / "fashion-mnist-small"


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def small_data_folder() -> Path:
    """Return the folder of the small Fashion-MNIST files."""
    return SMALL_DATA
