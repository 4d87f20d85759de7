"""A repository that follows its folder: new, changed, broken and removed versions under traffic."""

import asyncio
import gc
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import write_checksums
from service.errors import ModelNotReady, UnknownModel, UnknownVersion
from service.metrics import Metrics
from service.repository import Options, Repository, opening
from service.repository.config import Serving
from service.repository.policy import parse_policy
from tests.service.repository.running import OTHER, PIXELS, answer, flip_a_bit, in_loop, running, states, until
from tests.service.tiny_bundle import BundleMaker, reference


def expected(maker: BundleMaker) -> np.ndarray:
    return reference(maker.weights, PIXELS)["probabilities"]


@in_loop
async def test_a_new_version_takes_over_and_the_old_one_is_closed(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    async with running(tmp_path) as repository:
        np.testing.assert_allclose(await answer(repository), expected(maker), atol=1e-5)
        old = repository.get("tiny")
        OTHER.write(tmp_path, version="2")
        await repository.refresh()
        np.testing.assert_allclose(await answer(repository), expected(OTHER), atol=1e-5)
        assert repository.get("tiny").version == "2"
        await repository._models["tiny"].closed()
        assert states(repository) == {"tiny/1": "UNAVAILABLE", "tiny/2": "READY"}
        with pytest.raises(UnknownVersion, match="in the repository; version 2 is served"):
            repository.get("tiny", "1")
        with pytest.raises(ModelNotReady):
            await old.batcher.run({"pixels": PIXELS}, ["probabilities"])


@in_loop
async def test_nothing_is_opened_twice_and_touching_files_changes_nothing(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path)
    async with running(tmp_path) as repository:
        model = repository.get("tiny")
        await repository.refresh()
        for path in folder.rglob("*"):
            os.utime(path)
        await repository.refresh()
        assert repository.get("tiny") is model


@in_loop
async def test_no_request_is_lost_while_versions_change(tmp_path: Path, maker: BundleMaker) -> None:
    """Callers ask without a pause, some with a long way between finding the model and asking it."""
    maker.write(tmp_path)
    done = asyncio.Event()
    counts = {"1": 0, "2": 0, "3": 0}

    async with running(tmp_path) as repository:

        async def quick() -> None:
            while not done.is_set():
                model = repository.get("tiny")
                await model.batcher.run({"pixels": PIXELS}, ["probabilities"])
                counts[model.version] += 1
                await asyncio.sleep(0)

        async def slow() -> None:
            while not done.is_set():
                model = repository.get("tiny")
                with model.in_use():
                    await asyncio.sleep(0.05)
                    await model.batcher.run({"pixels": PIXELS}, ["probabilities"])

        callers = [asyncio.create_task(caller()) for caller in (quick, quick, slow, slow, slow)]
        for version in ("2", "3"):
            OTHER.write(tmp_path, version=version)
            await repository.refresh()
            await asyncio.sleep(0.1)
        done.set()
        await asyncio.gather(*callers)
        assert min(counts.values()) > 0
        assert states(repository)["tiny/3"] == "READY"


@in_loop
async def test_who_holds_a_version_too_long_does_not_keep_it_for_ever(
    tmp_path: Path, maker: BundleMaker, caplog: pytest.LogCaptureFixture
) -> None:
    maker.write(tmp_path)
    async with running(tmp_path, unload_seconds=0.05) as repository:
        model = repository.get("tiny")
        with model.in_use():
            maker.write(tmp_path, version="2")
            await repository.refresh()
            assert states(repository)["tiny/1"] == "UNLOADING"
            await repository._models["tiny"].closed()
            assert states(repository)["tiny/1"] == "UNAVAILABLE"
        assert "a version did not drain in time" in caplog.messages


@pytest.mark.parametrize("kind", ["corrupt", "disagrees", "half copied"])
@in_loop
async def test_a_bad_version_is_refused_and_what_was_serving_goes_on(
    kind: str, tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    metrics = Metrics()
    async with running(tmp_path, metrics) as repository:
        model = repository.get("tiny")
        folder = maker.write(tmp_path, version="2")
        if kind == "corrupt":
            flip_a_bit(folder)
        elif kind == "half copied":
            shutil.move(folder / "graphs" / "model.onnx", tmp_path / "rest")
        else:
            shutil.copy(OTHER.write(tmp_path / "elsewhere") / "graphs" / "model.onnx", folder / "graphs")
            write_checksums(folder)
        await repository.refresh()
        assert repository.get("tiny") is model
        (refused,) = [entry for entry in repository.index() if entry.version == "2"]
        assert refused.state == "UNAVAILABLE"
        assert {"corrupt": "has SHA-256", "disagrees": "recorded samples", "half copied": "is missing"}[
            kind
        ] in refused.reason
        assert repository.unready() == {}
        text = metrics.render("")[0].decode()
        assert 'ddl_model_ready{model="tiny",version="1"} 1.0' in text
        assert 'ddl_model_ready{model="tiny",version="2"} 0.0' in text
        assert 'ddl_model_loads_total{model="tiny",outcome="refused"} 1.0' in text
        await repository.refresh()  # nothing has changed: it is not tried again
        assert metrics.render("")[0].decode().count('outcome="refused"} 1.0') == 1
        if kind == "half copied":
            shutil.move(tmp_path / "rest", folder / "graphs" / "model.onnx")
            await repository.refresh()
            assert repository.get("tiny").version == "2"


@in_loop
async def test_a_bundle_that_is_replaced_in_place_is_swapped_or_refused(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path)
    async with running(tmp_path) as repository:
        shutil.rmtree(folder)
        OTHER.write(tmp_path)
        await repository.refresh()
        np.testing.assert_allclose(await answer(repository), expected(OTHER), atol=1e-5)
        shutil.rmtree(folder)
        maker.write(tmp_path, after=flip_a_bit)
        await repository.refresh()
        np.testing.assert_allclose(await answer(repository), expected(OTHER), atol=1e-5)
        (entry,) = repository.index()
        assert entry.state == "READY"
        assert "has SHA-256" in entry.reason


@in_loop
async def test_a_removed_version_gives_way_to_an_older_one_and_a_removed_model_goes(
    tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, "other")
    newest = OTHER.write(tmp_path, version="2")
    metrics = Metrics()
    async with running(tmp_path, metrics) as repository:
        shutil.rmtree(newest)
        await repository.refresh()
        assert repository.get("tiny").version == "1"
        shutil.rmtree(tmp_path / "tiny")
        await repository.refresh()
        await repository._models["tiny"].closed()
        with pytest.raises(ModelNotReady, match="removed from the repository"):
            repository.get("tiny")
        await repository.refresh()
        with pytest.raises(UnknownModel, match="known: other"):
            repository.get("tiny")
        assert repository.unready() == {}
        assert 'model="tiny",version' not in metrics.render("")[0].decode()


@in_loop
async def test_a_folder_that_vanishes_or_is_empty_takes_nothing_away(
    tmp_path: Path, maker: BundleMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """A volume that is not mounted looks like that."""
    root = tmp_path / "models"
    maker.write(root)
    metrics = Metrics()
    async with running(root, metrics) as repository:
        root.rename(tmp_path / "away")
        await repository.refresh()
        await repository.refresh()
        root.mkdir()
        await repository.refresh()
        assert repository.get("tiny").version == "1"
        reasons = [r.__dict__["fields"]["reason"] for r in caplog.records if "cannot be read" in r.message]
        assert ["there is no folder" in reasons[0], "is it mounted" in reasons[1], len(reasons)] == [True, True, 2]
        assert "ddl_repository_failures_total 3.0" in metrics.render("")[0].decode()
        root.rmdir()
        (tmp_path / "away").rename(root)
        maker.write(root, version="2")
        await repository.refresh()
        assert repository.get("tiny").version == "2"


@in_loop
async def test_a_model_that_comes_later_and_is_refused_does_not_make_the_service_unready(
    tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    maker.write(tmp_path, "bad", after=flip_a_bit)
    async with running(tmp_path) as repository:
        assert list(repository.unready()) == ["bad"]
        shutil.rmtree(tmp_path / "bad")
        maker.write(tmp_path, "bad")
        maker.write(tmp_path, "later", after=flip_a_bit)
        await repository.refresh()
        assert repository.unready() == {}
        assert states(repository) == {"bad/1": "READY", "later/1": "UNAVAILABLE", "tiny/1": "READY"}


@in_loop
async def test_what_may_pass_is_tried_again_with_growing_pauses(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.write(tmp_path)
    tries = []
    real = opening.read_bundle

    def failing(folder: Path) -> Any:
        tries.append(folder)
        raise OSError("device is busy")

    now = 0.0
    monkeypatch.setattr("service.repository.model.monotonic", lambda: now)
    monkeypatch.setattr(opening, "read_bundle", failing)
    async with running(tmp_path) as repository:
        for now, expected_tries in ((4, 1), (6, 2), (15, 2), (17, 3), (1000, 4)):
            await repository.refresh()
            assert len(tries) == expected_tries, now
        assert "device is busy" in repository.unready()["tiny"]
        monkeypatch.setattr(opening, "read_bundle", real)
        now = 5000
        await repository.refresh()
        assert repository.unready() == {}


@in_loop
async def test_changed_settings_of_a_model_are_taken_over_and_wrong_ones_refused(
    tmp_path: Path, maker: BundleMaker
) -> None:
    maker.write(tmp_path)
    config = tmp_path / "tiny" / "config.toml"
    async with running(tmp_path) as repository:
        config.write_text("instances = 2\n[batching]\nmax_rows = 4\nbucket_rows = [2, 4]\n")
        await repository.refresh()
        model = repository.get("tiny")
        assert (len(model.sessions), model.batcher.limits.max_rows, model.batcher.limits.bucket_rows) == (2, 4, (2, 4))
        config.write_text("instancs = 3")
        await repository.refresh()
        assert repository.get("tiny") is model
        (entry,) = repository.index()
        assert (entry.state, entry.reason) == ("READY", "config.toml: instancs: unknown field")
        config.unlink()
        await repository.refresh()
        assert len(repository.get("tiny").sessions) == 1
        assert repository.index()[0].reason == ""


@in_loop
async def test_policies_choose_versions(tmp_path: Path, maker: BundleMaker) -> None:
    for version in ("1", "2", "3", "4"):
        maker.write(tmp_path, version=version, after=flip_a_bit if version == "3" else lambda _: None)
    async with running(tmp_path, defaults=Serving(parse_policy("latest 2"))) as repository:
        assert repository.versions("tiny") == ["2", "4"]
        assert (repository.get("tiny").version, repository.get("tiny", "2").version) == ("4", "2")
        for text, versions in (('"all"', ["1", "2", "4"]), ("[1, 2]", ["1", "2"]), ("[3]", ["1", "2"]), ("2", ["2"])):
            (tmp_path / "tiny" / "config.toml").write_text(f"versions = {text}")
            await repository.refresh()
            assert repository.versions("tiny") == versions, text


@in_loop
async def test_the_memory_of_a_closed_version_is_given_back(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    async with running(tmp_path) as repository:
        await answer(repository)
        session = weakref.ref(repository.get("tiny").session._session)
        assert session() is not None
        gc.disable()
        try:
            maker.write(tmp_path, version="2")
            await repository.refresh()
            await repository._models["tiny"].closed()
            assert session() is None
        finally:
            gc.enable()


@in_loop
async def test_the_task_looks_by_itself_and_survives_surprises(
    tmp_path: Path, maker: BundleMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    maker.write(tmp_path)
    async with running(tmp_path, poll_seconds=0.01) as repository:
        with monkeypatch.context() as patch:
            patch.setattr(type(repository._store), "scan", lambda self: 1 / 0)
            await until(lambda: "looking at the repository failed" in caplog.messages)
        maker.write(tmp_path, version="2")
        await until(lambda: repository.get("tiny").version == "2")


@in_loop
async def test_stopping_answers_what_was_asked(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path)
    async with running(tmp_path) as repository:
        asked = [asyncio.create_task(answer(repository)) for _ in range(24)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*asked)) == 24


def test_an_empty_folder_is_enough_where_models_may_come(tmp_path: Path) -> None:
    assert Repository(tmp_path, Options(control="poll")).entries() == []
