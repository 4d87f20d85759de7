"""What the clients' checks share. In the clients' environment nothing of this project can be imported."""

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

HTTP = os.environ.get("SERVICE_HTTP", "")
GRPC = os.environ.get("SERVICE_GRPC", "")
SHAPE = (1, 8, 12)
LABELS = ("boot", "bag", "coat", "dress")
MODEL = "tiny"


def pixels(rows: int = 1, seed: int = 0) -> Any:
    """Return inputs of the model."""
    return np.random.default_rng(seed).standard_normal((rows, *SHAPE)).astype(np.float32)


def refused(call: Callable[[], Any], *words: str) -> Exception:
    """Return the error of a call that must fail, after a look for the words in it."""
    caught = None
    try:
        call()
    except Exception as error:
        caught = error
    assert caught is not None, "was not refused"
    for word in words:
        assert word in str(caught), str(caught)
    return caught


def run(names: dict[str, Any]) -> None:
    """Run every function `check_...` and print what became of them, as JSON."""
    results = {}
    for name, check in list(names.items()):
        if name.startswith("check_"):
            try:
                check()
                results[name] = "ok"
            except Exception:
                results[name] = traceback.format_exc()
    print(json.dumps(results))  # noqa: T201 - read by the test
