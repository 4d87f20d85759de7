"""Language models in the repository: proven before traffic, swapped while streams run, bounded by memory."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from service.bundle import write_checksums
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import MemoryLimit, ModelNotReady, TaskMismatch
from service.repository import Loaded
from service.repository.config import Serving
from service.repository.generation import Generation
from tests.service.repository.running import in_loop, running, states
from tests.service.tiny_bundle import BundleMaker

PROMPT = (5, 6, 7, 8)
GREEDY = SamplingParams(temperature=0.0)


def request(tokens: int = 6) -> GenerateRequest:
    return GenerateRequest(PROMPT, GREEDY, max_tokens=tokens, ignore_end=True)


async def answer(model: Loaded, tokens: int = 6) -> list[int | None]:
    async with model.language.engine.submit(request(tokens)) as stream:
        return [event.token async for event in stream]


@pytest.fixture
def root(text_bundle: Path, tmp_path: Path) -> Path:
    """Return a repository of its own for a test."""
    shutil.copytree(text_bundle, tmp_path / "models" / "words" / "1")
    return tmp_path / "models"


@in_loop
async def test_a_language_model_answers_in_every_way(text_bundle: Path) -> None:
    async with running(text_bundle.parents[1]) as repository:
        model = repository.get("words")
        language = model.language
        assert (language.limits.slots, language.limits.slot_tokens) == (8, 24)
        assert 0 < model.golden_difference < 1e-4
        tokens = await answer(model)
        ids = np.array([[*PROMPT, *(token for token in tokens if token is not None)]])
        arrays = await model.batcher.run({"input_ids": ids}, ["logits"])
        assert arrays["logits"][0, len(PROMPT) - 1 : -1].argmax(-1).tolist() == tokens
        score = await language.score(tuple(ids[0].tolist()), start=len(PROMPT))
        assert all(score.greedy[len(PROMPT) :])
        constraint = language.compile(choice=["a delta", "rule"])
        asked = GenerateRequest(PROMPT, max_tokens=16, constraint=constraint)
        async with language.engine.submit(asked) as stream:
            assert "".join([event.text async for event in stream]) in ("a delta", "rule")
        assert language.tokenizer.decode(language.tokenizer.encode("a delta")) == "a delta"


@in_loop
async def test_an_image_classifier_has_no_language(root: Path, maker: BundleMaker) -> None:
    maker.write(root)
    async with running(root) as repository:
        assert repository.get("tiny").language_or_none is None
        with pytest.raises(TaskMismatch, match="'tiny' is no language model: its task is image-classification"):
            _ = repository.get("tiny").language


def another_number(folder: Path) -> None:
    path = folder / "golden" / "step.safetensors"
    tensors = load_file(path)
    tensors["2/output/logits"][0, 3] += 0.1
    save_file(tensors, path)


def a_step_less(folder: Path) -> None:
    path = folder / "golden" / "step.safetensors"
    tensors = {name: array for name, array in load_file(path).items() if not name.startswith("1/input")}
    save_file(tensors, path)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (another_number, "'logits' differs by 0.1 from the recorded samples"),
        (a_step_less, "do not fit 3 steps of the graph"),
        (no_tokenizer, "tokenizer.json is no tokenizer"),
    ],
)
def test_what_does_not_prove_itself_gets_no_traffic(root: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(root / "words" / "1")
    write_checksums(root / "words" / "1")

    async def main() -> None:
        async with running(root) as repository:
            assert states(repository) == {"words/1": "UNAVAILABLE"}
            with pytest.raises(ModelNotReady, match=reason):
                repository.get("words")

    asyncio.run(main())


@in_loop
async def test_a_stream_goes_on_while_its_model_is_replaced(root: Path) -> None:
    defaults = Serving(generation=Generation(slots=2, slot_tokens=200))
    async with running(root, defaults=defaults) as repository:
        old = repository.get("words")
        stream = old.language.engine.submit(request(150))
        await anext(stream)
        shutil.copytree(root / "words" / "1", root / "words" / "2")
        await repository.refresh()
        new = repository.get("words")
        assert (old.version, new.version) == ("1", "2")
        tokens = [event.token async for event in stream]
        assert len(tokens) == 149
        assert await answer(new, 7) == [*await answer(new, 1), *tokens[:6]]
        with pytest.raises(ModelNotReady):
            old.language.engine.submit(request())


@in_loop
async def test_a_stream_that_does_not_end_in_time_is_told_so(root: Path) -> None:
    defaults = Serving(generation=Generation(slots=1, slot_tokens=20_000))
    async with running(root, defaults=defaults, unload_seconds=0.05) as repository:
        stream = repository.get("words").language.engine.submit(request(19_000))
        await anext(stream)
        await repository.stop()
        events = [event async for event in stream]
        assert isinstance(events[-1].error, ModelNotReady)


@in_loop
async def test_slots_follow_from_the_memory_for_the_cache(root: Path) -> None:
    async with running(root) as repository:
        model = repository.get("words")
        assert model.language.engine_or_none is not None
        task, cache = model.language.task, model.language.engine.loop._stepper.slots.nbytes
    per_slot = cache // 8
    few = Generation(cache_bytes=3 * per_slot).limits(task, 3)
    assert (few.slots, few.slot_tokens) == (3, 24)
    assert replace(Generation(), slots=5, slot_tokens=99).limits(task, 3).slots == 5
    with pytest.raises(MemoryLimit, match="generation_cache_bytes is 100"):
        Generation(cache_bytes=100).limits(task, 3)
    files = sum((root / "words" / "1" / file).stat().st_size for file in ("graphs/model.onnx", "graphs/step.onnx"))
    files += 2 * (root / "words" / "1" / "graphs/weights.bin").stat().st_size
    assert files + 0.9 * cache < model.memory_bytes <= files + cache
    async with running(root, memory_limit_bytes=model.memory_bytes - 1) as repository:
        with pytest.raises(ModelNotReady, match="memory_limit_bytes"):
            repository.get("words")


@in_loop
async def test_config_toml_decides_for_one_model(root: Path) -> None:
    (root / "words" / "config.toml").write_text("[generation]\nslots = 2\nslot_tokens = 40\nqueue_limit = 0\n")
    async with running(root) as repository:
        limits = repository.get("words").language.limits
        assert (limits.slots, limits.slot_tokens, limits.queue_limit, limits.step_tokens) == (2, 40, 0, 256)
