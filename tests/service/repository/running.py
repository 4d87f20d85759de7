"""Repositories over tiny bundles, each on a loop of its own."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.metrics import Metrics
from service.repository import Options, Repository
from service.repository.opening import Device
from tests.service.tiny_bundle import HEIGHT, WIDTH, BundleMaker, make_weights

PIXELS = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
PLAIN = Device(kernel_library="off")


def opened(root: Path | str, **options: Any) -> Repository:
    """Return a repository after its start."""
    repository = Repository(root, Options(**{"device": PLAIN, **options}))
    asyncio.run(repository.start())
    return repository


@asynccontextmanager
async def running(root: Path | str, metrics: Metrics | None = None, **options: Any) -> AsyncIterator[Repository]:
    """Start a repository that looks for changes when it is told to, and stop it."""
    options = {"device": PLAIN, "control": "poll", "poll_seconds": 3600, **options}
    repository = Repository(root, Options(**options), metrics)
    await repository.start()
    try:
        yield repository
    finally:
        await repository.stop()


async def answer(repository: Repository, name: str = "tiny", version: str | None = None) -> np.ndarray:
    """Return the probabilities for PIXELS."""
    outputs = await repository.get(name, version).batcher.run({"pixels": PIXELS}, ["probabilities"])
    return outputs["probabilities"]


def states(repository: Repository) -> dict[str, str]:
    """Return the state of each version by NAME/VERSION, as the index says it."""
    return {f"{entry.name}/{entry.version}": entry.state for entry in repository.index()}


async def until(condition: Callable[[], Any]) -> None:
    """Let the event loop turn until something has happened in a thread."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Let a coroutine be a test."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 60))

    return run


OTHER = BundleMaker(make_weights(seed=1))
"""Writes bundles of the same shape with other weights."""


def flip_a_bit(folder: Path) -> None:
    path = folder / "graphs" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
