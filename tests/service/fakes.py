"""Stand-ins for what is slow, random or far away."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.job import Job, Outcome
from service.errors import ModelFailed, ServiceError
from service.manifest.tensors import Graph, TensorSpec
from service.runtime.kernel_library import plain
from service.runtime.session import Arrays, TensorInfo

POISON = 666.0


class ManualClock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeSession:
    """Doubles its input `x`; remembers the rows of each run, waits while `gate` is closed, and fails on POISON."""

    provider = "FakeProvider"
    kernel = plain("a fake")
    inputs = (TensorInfo("x", "FP32", (-1, 2)),)
    outputs = (TensorInfo("y", "FP32", (-1, 2)),)

    def __init__(self, *, open_gate: bool = True) -> None:
        self.runs: list[int] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.on_run: Callable[[NDArray[Any]], None] = lambda x: None
        if open_gate:
            self.gate.set()

    def run(self, feeds: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        x = feeds["x"]
        self.runs.append(len(x))
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self.gate.wait(10)
        self.on_run(x)
        if (x == POISON).any():
            raise ModelFailed("poisoned")
        found = {"y": x * 2, "total": x.sum(keepdims=True)[0], "y3": x * 3}
        return {name: found[name] for name in outputs}


def graph(*shape: int) -> Graph:
    """Return a graph with one input `x`, outputs `y` and `y3` like it, and `total` that has no rows."""
    like = {"datatype": "FP32", "shape": shape or (-1, 2)}
    return Graph(
        file="graphs/model.onnx",
        opset=20,
        inputs=(TensorSpec(name="x", **like),),
        outputs=(
            TensorSpec(name="y", **like),
            TensorSpec(name="y3", **like),
            TensorSpec(name="total", datatype="FP32", shape=(2,)),
        ),
    )


class Caller:
    """One who waits for a job."""

    def __init__(self, value: float = 1.0, rows: int = 1, outputs: tuple[str, ...] = ("y",), **fields: Any) -> None:
        self.outcomes: list[Outcome] = []
        self.hung_up = False
        self.x = np.full((rows, 2), value, np.float32)
        self.job = Job({"x": self.x}, outputs, rows, self.outcomes.append, lambda: self.hung_up, **fields)

    @property
    def outcome(self) -> Outcome | None:
        assert len(self.outcomes) <= 1, "finished twice"
        return self.outcomes[0] if self.outcomes else None

    @property
    def error(self) -> ServiceError:
        assert isinstance(self.outcome, ServiceError)
        return self.outcome

    def check(self, name: str = "y", factor: float = 2.0) -> None:
        """Assert that the answer is this caller's own."""
        assert isinstance(self.outcome, dict), self.outcome
        np.testing.assert_array_equal(self.outcome[name], self.x * factor)
