"""Loading and unloading on demand, also at the same time and under traffic."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.job import BatchLimits
from service.errors import ControlRefused, InvalidFields, LoadFailed, ModelNotReady, StoreFailed, UnknownModel
from service.repository import opening
from service.repository.config import Serving
from tests.service.repository.running import OTHER, answer, flip_a_bit, in_loop, running, states, until
from tests.service.tiny_bundle import BundleMaker

EXPLICIT: dict[str, Any] = {"control": "explicit"}


@in_loop
async def test_models_are_loaded_and_unloaded_on_demand(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, "other")
    async with running(tmp_path, **EXPLICIT, startup_models=("other",)) as repository:
        assert states(repository) == {"other/1": "READY", "tiny/1": "UNAVAILABLE"}
        assert repository.unready() == {}
        with pytest.raises(ModelNotReady, match="it is not loaded"):
            repository.get("tiny")
        await repository.load("tiny")
        await answer(repository)
        assert [entry.name for entry in repository.index(ready=True)] == ["other", "tiny"]
        await repository.unload("other")
        assert states(repository) == {"other/1": "UNAVAILABLE", "tiny/1": "READY"}
        with pytest.raises(ModelNotReady, match="it was unloaded"):
            repository.get("other")
        assert [entry.name for entry in repository.entries()] == ["tiny"]
        await repository.unload("other")  # once more changes nothing
        await repository.load("other")
        await answer(repository, "other")


@in_loop
async def test_a_new_folder_is_found_when_it_is_loaded_and_unknown_names_are_refused(
    tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    async with running(tmp_path, **EXPLICIT) as repository:
        maker.write(tmp_path, "late")
        await repository.load("late")
        await answer(repository, "late")
        for name in ("nix", "../tiny", "tiny/1", ""):
            for act in (repository.load, repository.unload):
                with pytest.raises(UnknownModel, match="known: late, tiny"):
                    await act(name)


@pytest.mark.parametrize("control", ["none", "poll"])
@in_loop
async def test_without_explicit_control_nobody_loads_on_demand(
    control: str, tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    async with running(tmp_path, control=control) as repository:
        for act in (repository.load, repository.unload):
            with pytest.raises(ControlRefused, match=f"it is {control}"):
                await act("tiny")
        await answer(repository)


@in_loop
async def test_a_load_that_fails_says_why_and_what_goes_on(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    async with running(tmp_path, **EXPLICIT) as repository:
        model = repository.get("tiny")
        folder = maker.write(tmp_path, version="2", after=flip_a_bit)
        for _ in range(2):  # a refused version is tried again whenever somebody insists
            with pytest.raises(LoadFailed, match=r"version 2: .* has SHA-256 .*; version 1 answers") as caught:
                await repository.load("tiny")
            assert caught.value.details["serving"] == ["1"]
            assert repository.get("tiny") is model
        flip_a_bit(folder)
        await repository.load("tiny")
        assert repository.get("tiny").version == "2"


@in_loop
async def test_a_store_that_cannot_be_read_fails_the_load_alone(tmp_path: Path, maker: BundleMaker) -> None:
    root = tmp_path / "models"
    maker.write(root)
    async with running(root, **EXPLICIT) as repository:
        root.rename(tmp_path / "away")
        with pytest.raises(StoreFailed, match="there is no folder"):
            await repository.load("tiny")
        await answer(repository)


@in_loop
async def test_a_configuration_may_come_with_the_load(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, version="2")
    async with running(tmp_path, **EXPLICIT) as repository:
        await repository.load("tiny", config={"versions": [1], "instances": 2, "batching": {"max_rows": 3}})
        model = repository.get("tiny")
        assert (model.version, len(model.sessions), model.batcher.limits.max_rows) == ("1", 2, 3)
        for config, message in (
            ({"max_rows": 3}, "max_rows: unknown field"),
            ({"instances": 0}, "greater than or equal to 1"),
            ({"batching": {"preferred_rows": [4, 2]}}, "preferred_rows must grow"),
            ({"versions": "newest"}, "a version policy is"),
        ):
            with pytest.raises(InvalidFields, match=message):
                await repository.load("tiny", config=config)
            assert repository.get("tiny") is model
        with pytest.raises(LoadFailed, match="no version that its policy asks for"):
            await repository.load("tiny", config={"versions": [7]})
        await repository.load("tiny")
        assert (repository.get("tiny").version, len(repository.get("tiny").sessions)) == ("2", 1)


@in_loop
async def test_two_loads_at_once_open_the_model_once(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.write(tmp_path)
    opened = []
    real = opening.open_graph
    monkeypatch.setattr(opening, "OPENERS", {kind: lambda *a: opened.append(a) or real(*a) for kind in opening.OPENERS})
    async with running(tmp_path, **EXPLICIT, startup_models=()) as repository:
        await asyncio.gather(*(repository.load("tiny") for _ in range(5)))
        assert len(opened) == 1
        loads = (repository.load("tiny"), repository.unload("tiny"), repository.load("tiny"), repository.unload("tiny"))
        await asyncio.gather(*loads, return_exceptions=True)
        await repository.load("tiny")
        await answer(repository)
        assert repository._loader.budget.used_bytes == repository.get("tiny").memory_bytes


@in_loop
async def test_unloading_answers_what_came_before_and_refuses_what_comes_after(
    tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    limits = BatchLimits(max_rows=2, max_wait_ms=50)
    async with running(tmp_path, **EXPLICIT, defaults=Serving(limits=limits)) as repository:
        asked = [asyncio.create_task(answer(repository)) for _ in range(11)]
        await asyncio.sleep(0)
        unloading = asyncio.create_task(repository.unload("tiny"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(ModelNotReady):
            repository.get("tiny")
        await unloading
        assert all(task.done() for task in asked)
        answers = await asyncio.gather(*asked)
        assert all(np.array_equal(found, answers[0]) for found in answers)


@in_loop
async def test_a_caller_who_goes_does_not_stop_the_load(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.write(tmp_path)
    gate = threading.Event()
    real = opening.read_bundle
    monkeypatch.setattr(opening, "read_bundle", lambda folder: gate.wait(10) and real(folder))
    async with running(tmp_path, **EXPLICIT, startup_models=()) as repository:
        loading = asyncio.create_task(repository.load("tiny"))
        await until(lambda: states(repository) == {"tiny/1": "LOADING"})
        with pytest.raises(ModelNotReady, match="it is being loaded"):
            repository.get("tiny")
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        gate.set()
        await until(lambda: states(repository) == {"tiny/1": "READY"})


@in_loop
async def test_the_memory_limit_refuses_what_does_not_fit_and_counts_what_is_replaced(
    tmp_path: Path, maker: BundleMaker
) -> None:
    folder = maker.write(tmp_path)
    maker.write(tmp_path, "other")
    size = (folder / "graphs" / "model.onnx").stat().st_size
    async with running(tmp_path, **EXPLICIT, startup_models=("tiny",), memory_limit_bytes=size + 9) as repository:
        assert repository.get("tiny").memory_bytes == size
        with pytest.raises(LoadFailed, match=f"memory_limit_bytes={size + 9} are free: unload a model"):
            await repository.load("other")
        shutil.rmtree(folder)
        OTHER.write(tmp_path)
        with pytest.raises(LoadFailed, match=r"together with the new one.*version 1 answers"):
            await repository.load("tiny")
        await answer(repository)
        await repository.unload("tiny")
        await repository.load("other")
        assert repository._loader.budget.used_bytes == size
        with pytest.raises(LoadFailed, match="needs about"):
            await repository.load("other", config={"instances": 2})
        await repository.unload("other")
        assert repository._loader.budget.used_bytes == 0


@in_loop
async def test_a_replay_that_takes_too_long_is_stopped(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.write(tmp_path)
    async with running(tmp_path, **EXPLICIT, startup_models=(), load_seconds=0.0) as repository:
        with pytest.raises(LoadFailed, match="could not be run: it took longer than 0 s"):
            await repository.load("tiny")
        assert repository._loader.budget.used_bytes == 0


@in_loop
async def test_each_size_of_a_batch_is_run_before_traffic_comes(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.write(tmp_path)
    ran: list[int] = []
    real = opening.OrtSession.run

    def run(self: Any, feeds: Any, outputs: Any, **options: Any) -> Any:
        ran.append(len(feeds["pixels"]))
        return real(self, feeds, outputs, **options)

    monkeypatch.setattr(opening.OrtSession, "run", run)
    options = BatchLimits(max_rows=8, bucket_rows=(1, 2, 4, 8), instances=2)
    async with running(tmp_path, defaults=Serving(limits=options)) as repository:
        assert ran == [3, 1, 2, 4, 8] * 2  # the golden samples first
        assert len(repository.get("tiny").sessions) == 2
