"""The batcher over a real graph: what a request gets does not depend on who it shares a run with."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import Bundle, read_bundle
from service.engine.batcher import Batcher
from service.engine.job import BatchLimits
from service.runtime.golden import difference
from service.runtime.kernel_library import choose_kernel
from service.runtime.session import CPU, OrtSession
from tests.service.tiny_bundle import HEIGHT, WIDTH, output_shapes

OUTPUTS = tuple(output_shapes())


@pytest.fixture(scope="module", params=["auto", "off"])
def opened(request: pytest.FixtureRequest, repository: Path) -> tuple[Bundle, OrtSession]:
    """Return the tiny bundle and its session, on the kernel where it is built and on the plain bodies."""
    bundle = read_bundle(repository / "tiny" / "1")
    kernel = choose_kernel(request.param, bundle.manifest.graph.custom_ops, CPU)
    return bundle, OrtSession(bundle.graph_path, providers=[CPU], threads=1, kernel=kernel)


def pixels(rows: int, seed: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed).standard_normal((rows, 1, HEIGHT, WIDTH))
    return {"pixels": drawn.astype(np.float32)}


async def together(batcher: Batcher, feeds: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Ask for everything in one turn of the loop."""
    return await asyncio.gather(*[batcher.run(one, OUTPUTS) for one in feeds])


@pytest.mark.parametrize("buckets", [(), (1, 4, 16, 64)])
def test_a_request_in_a_batch_gets_what_it_gets_alone(
    opened: tuple[Bundle, OrtSession], buckets: tuple[int, ...]
) -> None:
    bundle, session = opened
    feeds = [pixels(1 + seed % 3, seed) for seed in range(20)]

    async def scenario() -> list[dict[str, Any]]:
        batcher = Batcher([session], bundle.manifest.graph, BatchLimits(max_rows=64, bucket_rows=buckets))
        answers = await together(batcher, feeds)
        assert list(batcher.statistics.batches) == [sum(len(one["pixels"]) for one in feeds)]
        batcher.close()
        return answers

    for one, answer in zip(feeds, asyncio.run(scenario()), strict=True):
        alone = session.run(one, OUTPUTS)
        for name in OUTPUTS:
            assert answer[name].shape == alone[name].shape
            assert difference(answer[name], alone[name]) <= bundle.manifest.golden.tolerance, name


def test_where_the_runtime_computes_rows_apart_they_are_the_same_bits(opened: tuple[Bundle, OrtSession]) -> None:
    """A convolution with as many images is the same loop for each; that is as far as ONNX Runtime promises it."""
    bundle, session = opened
    feeds = [pixels(1, seed) for seed in range(8)]

    async def scenario() -> list[dict[str, Any]]:
        batcher = Batcher([session], bundle.manifest.graph, BatchLimits())
        answers = await asyncio.gather(*[batcher.run(one, ["logits"]) for one in feeds])
        batcher.close()
        return answers

    whole = session.run({"pixels": np.concatenate([one["pixels"] for one in feeds])}, ["logits"])["logits"]
    for row, answer in enumerate(asyncio.run(scenario())):
        assert answer["logits"].tobytes() == whole[row : row + 1].tobytes()


def test_what_is_asked_with_gates_and_without_runs_apart_and_agrees(opened: tuple[Bundle, OrtSession]) -> None:
    bundle, session = opened

    async def scenario() -> None:
        batcher = Batcher([session], bundle.manifest.graph, BatchLimits())
        one = pixels(1, 1)
        plain, full = await asyncio.gather(batcher.run(one, ["logits"]), batcher.run(one, OUTPUTS))
        assert difference(plain["logits"], full["logits"]) <= bundle.manifest.golden.tolerance
        assert batcher.statistics.execution_count == 2
        batcher.close()

    asyncio.run(scenario())
