"""Bundles from a store that is not a folder: whole or not at all, and nothing outside of the cache."""

import errno
import hashlib
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from service.errors import BundleCorrupt, BundleIncomplete, LoadFailed, ModelNotReady, RepositoryEmpty, StoreFailed
from service.repository import Repository
from service.repository.stores.choose import open_store
from service.repository.stores.local import LocalStore
from service.repository.stores.remote import RemoteStore
from service.signing.minisign import generate
from service.signing.trust import TrustedKeys, sign_bundle
from tests.service.repository.running import OTHER, answer, flip_a_bit, in_loop, opened, running, states
from tests.service.tiny_bundle import BundleMaker

URL = "memory://bucket/models"


class Remote:
    """The store's side."""

    def __init__(self) -> None:
        self.files = fsspec.filesystem("memory")

    def put(self, folder: Path, name: str = "tiny", version: str = "1") -> None:
        self.files.put(str(folder) + "/", f"/bucket/models/{name}/{version}/", recursive=True)

    def write(self, path: str, content: bytes) -> None:
        self.files.pipe_file(f"/bucket/models/{path}", content)

    def remove(self, path: str) -> None:
        self.files.rm(f"/bucket/models/{path}", recursive=True)


@pytest.fixture
def remote() -> Iterator[Remote]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield Remote()
    MemoryFileSystem.store.clear()


def cached(cache: Path) -> list[str]:
    return sorted(path.relative_to(cache).as_posix()[:8] for path in cache.glob("*/*"))


@in_loop
async def test_versions_are_fetched_once_verified_and_followed(
    tmp_path: Path, maker: BundleMaker, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.put(maker.write(tmp_path / "here"))
    remote.write("aliases.toml", b'live = "tiny"')
    remote.write("tiny/config.toml", b"instances = 2")
    remote.write("README.md", b"no model")
    cache = tmp_path / "cache"
    async with running(URL, cache=cache) as repository:
        await answer(repository)
        assert len(repository.get("live").sessions) == 2
        assert cached(cache) == ["tiny/1-" + cached(cache)[0][-1]]
        remote.put(OTHER.write(tmp_path / "here", version="2"), version="2")
        await repository.refresh()
        assert repository.get("live").version == "2"
        second = await answer(repository)
    downloads = []
    real = RemoteStore._download
    monkeypatch.setattr(RemoteStore, "_download", lambda *a: downloads.append(a) or real(*a))
    async with running(URL, cache=cache) as repository:
        np.testing.assert_array_equal(await answer(repository), second)
    assert downloads == []


@in_loop
async def test_a_store_that_fails_takes_nothing_away(
    tmp_path: Path, maker: BundleMaker, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.put(maker.write(tmp_path / "here"))
    async with running(URL, cache=tmp_path / "cache") as repository:
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "find", lambda *a, **k: 1 / 0)
            await repository.refresh()
        await answer(repository)
        remote.put(OTHER.write(tmp_path / "here", version="2"), version="2")
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "open", lambda *a, **k: fail(TimeoutError("no answer")))
            await repository.refresh()
        assert "TimeoutError: no answer" in repository.index()[1].reason
        assert repository.get("tiny").version == "1"
        assert not list((tmp_path / "cache").glob("*/.partial-*"))


def fail(error: Exception) -> Any:
    raise error


@in_loop
async def test_half_a_bundle_is_refused_until_the_rest_has_come(
    tmp_path: Path, maker: BundleMaker, remote: Remote
) -> None:
    remote.put(maker.write(tmp_path / "here"))
    folder = OTHER.write(tmp_path / "here", version="2")
    rest = (folder / "graphs" / "model.onnx").read_bytes()
    (folder / "graphs" / "model.onnx").unlink()
    remote.put(folder, version="2")
    async with running(URL, cache=tmp_path / "cache") as repository:
        assert states(repository) == {"tiny/1": "READY", "tiny/2": "UNAVAILABLE"}
        assert "graphs/model.onnx is missing" in repository.index()[1].reason
        remote.write("tiny/2/graphs/model.onnx", rest)
        await repository.refresh()
        assert repository.get("tiny").version == "2"


@in_loop
async def test_damage_on_the_way_is_refused_and_damage_in_the_cache_is_mended(
    tmp_path: Path, maker: BundleMaker, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    remote.put(maker.write(tmp_path / "here", after=flip_a_bit))
    async with running(URL, cache=cache, control="explicit") as repository:
        assert repository.unready()["tiny"].startswith("memory://bucket/models/tiny/1/graphs/model.onnx has SHA-256")
        assert list(cache.glob("*/*")) == []
        shutil.rmtree(tmp_path / "here")
        remote.remove("tiny")
        remote.put(maker.write(tmp_path / "here"))
        await repository.load("tiny")
        await repository.unload("tiny")
        flip_a_bit(next(cache.glob("tiny/1-*")))
        with monkeypatch.context() as patch:  # as if it could not be deleted
            patch.setattr(RemoteStore, "discard", lambda *_: False)
            with pytest.raises(LoadFailed, match=r"version 1: graphs/model\.onnx has SHA-256"):
                await repository.load("tiny")
        await repository.load("tiny")
        await answer(repository)


@pytest.mark.parametrize(
    "name", ["../../escape", "/escape", "a/../../escape", "..\\escape", "C:escape", "a//b", "./x", "a\tb", ""]
)
def test_names_that_lead_out_of_the_cache_are_refused(name: str, tmp_path: Path, remote: Remote) -> None:
    content = b"pwned"
    digest = hashlib.sha256(content).hexdigest()
    remote.write("tiny/1/SHA256SUMS", f"{digest}  manifest.json\n{digest}  {name}\n".encode())
    remote.write("tiny/1/manifest.json", content)
    store = RemoteStore(URL, tmp_path / "cache")
    found = store.scan().models["tiny"].versions[1]
    with pytest.raises(BundleCorrupt, match="not a line of sha256sum"):
        store.fetch(found)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_each_look_asks_the_store_and_no_cache_of_listings(
    tmp_path: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.write("tiny/1/x", b"x")
    store = RemoteStore(URL, tmp_path / "cache")
    order: list[str] = []
    real = MemoryFileSystem.find
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache", lambda *_: order.append("forget"))
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *a, **k: order.append("list") or real(*a, **k))
    store.scan()
    store.scan()
    assert order == ["forget", "list"] * 2


def test_only_names_of_models_and_versions_are_looked_at(tmp_path: Path, remote: Remote) -> None:
    for path in ("Big Model/1/x", "tiny/01/x", "tiny/../1/x", ".hidden/1/x", "tiny/x", "tiny/3/deep/x"):
        remote.write(path, b"x")
    found = RemoteStore(URL, tmp_path / "cache").scan()
    assert {name: list(model.versions) for name, model in found.models.items()} == {"tiny": [3]}


def test_a_list_or_text_beyond_its_size_is_not_read(tmp_path: Path, remote: Remote) -> None:
    remote.write("tiny/1/SHA256SUMS", b"x" * (1024 * 1024 + 1))
    store = RemoteStore(URL, tmp_path / "cache")
    with pytest.raises(BundleCorrupt, match="is larger than 1048576 bytes"):
        store.fetch(store.scan().models["tiny"].versions[1])
    remote.remove("tiny/1/SHA256SUMS")
    remote.write("tiny/1/x", b"x")
    with pytest.raises(BundleIncomplete):
        store.fetch(store.scan().models["tiny"].versions[1])


def test_a_file_that_grows_while_it_is_read_is_given_up(
    tmp_path: Path, maker: BundleMaker, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.put(maker.write(tmp_path / "here"))
    store = RemoteStore(URL, tmp_path / "cache")
    monkeypatch.setattr(RemoteStore, "_parts", lambda *a: iter([b"x" * 2**20] * 2**20))
    with pytest.raises(BundleCorrupt, match="grows while it is read"):
        store.fetch(store.scan().models["tiny"].versions[1])
    assert list((tmp_path / "cache").glob("*/*")) == []


@pytest.mark.parametrize("moment", ["before", "while writing"])
@in_loop
async def test_a_full_disk_refuses_the_new_version_and_leaves_no_rest(
    moment: str, tmp_path: Path, maker: BundleMaker, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.put(maker.write(tmp_path / "here"))
    cache = tmp_path / "cache"
    async with running(URL, cache=cache) as repository:
        remote.put(OTHER.write(tmp_path / "here", version="2"), version="2")
        if moment == "before":
            usage = namedtuple("usage", "free")
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
        else:
            full = OSError(errno.ENOSPC, "No space left on device")
            monkeypatch.setattr("service.repository.stores.remote.os.fsync", lambda _: fail(full))
        await repository.refresh()
        reason = repository.index()[1].reason
        assert "cannot be written" in reason
        assert "set cache_folder" in reason
        await answer(repository)
        assert len(list(cache.glob("*/*"))) == 1


def test_the_cache_is_pruned_of_what_nobody_has_asked_for_in_a_day(
    tmp_path: Path, maker: BundleMaker, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.put(maker.write(tmp_path / "here"))
    remote.put(maker.write(tmp_path / "here", version="2"), version="2")
    store = RemoteStore(URL, tmp_path / "cache")
    versions = store.scan().models["tiny"].versions
    kept, old = (store.fetch(version) for version in versions.values())
    store.prune([versions[1]])
    assert old.is_dir()
    now = time.time()
    monkeypatch.setattr("service.repository.stores.remote.time.time", lambda: now + 2 * 86400)
    store.prune([versions[1]])
    assert (kept.is_dir(), old.exists()) == (True, False)


def test_a_setting_leads_to_a_store(tmp_path: Path, remote: Remote) -> None:
    assert isinstance(open_store(tmp_path, tmp_path), LocalStore)
    assert isinstance(open_store("models", tmp_path), LocalStore)
    assert open_store(f"file://{tmp_path}", tmp_path).place == str(tmp_path)
    assert isinstance(open_store(URL, tmp_path), RemoteStore)
    with pytest.raises(StoreFailed, match=r"nix://x: .*Protocol not known: nix"):
        open_store("nix://x", tmp_path)
    with pytest.raises(RepositoryEmpty, match="has no bundle"):
        Repository(URL)


def test_a_signature_comes_along(tmp_path: Path, maker: BundleMaker, remote: Remote) -> None:
    key = generate()
    folder = maker.write(tmp_path / "here")
    sign_bundle(folder, key, "tiny", "1")
    remote.put(folder)
    opened(URL, cache=tmp_path / "cache", trusted=TrustedKeys([key.public])).get("tiny")
    other = opened(URL, cache=tmp_path / "cache", trusted=TrustedKeys([generate().public]))
    with pytest.raises(ModelNotReady, match="which is not trusted"):
        other.get("tiny")
