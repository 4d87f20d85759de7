"""The list of files is the whole truth about a bundle."""

from pathlib import Path

import pytest

from service.bundle import LanguageModelling, Manifest, parse_checksums, read_bundle, write_checksums
from service.errors import BundleCorrupt, BundleIncomplete, TaskMismatch
from tests.service.tiny_bundle import BundleMaker

HASH = "0" * 64


def test_files_that_are_not_listed_are_refused(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path)
    read_bundle(folder)
    for name in ("extra", "graphs/weights.bin", ".hidden", "graphs/SHA256SUMS"):
        (folder / name).write_text("x")
        with pytest.raises(BundleCorrupt, match=f"{name} is not listed in SHA256SUMS"):
            read_bundle(folder)
        (folder / name).unlink()
    (folder / "empty").mkdir()
    read_bundle(folder)


def test_links_within_the_bundle_are_followed_and_others_refused(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path)
    graph = folder / "graphs" / "model.onnx"
    outside = tmp_path / "outside.onnx"
    graph.rename(outside)
    graph.symlink_to(outside)
    with pytest.raises(BundleCorrupt, match="is a link that leaves the bundle"):
        read_bundle(folder)
    graph.unlink()
    outside.rename(folder / "golden" / "model.onnx")
    graph.symlink_to(folder / "golden" / "model.onnx")
    with pytest.raises(BundleCorrupt, match=r"golden/model\.onnx is not listed"):
        read_bundle(folder)
    graph.unlink()
    (folder / "golden" / "model.onnx").rename(graph)
    (folder / "inner").mkdir()
    (folder / "PARITY.md").write_text("same")
    (folder / "inner" / "PARITY.md").symlink_to(folder / "PARITY.md")
    write_checksums(folder)
    read_bundle(folder)


def test_the_version_folder_itself_may_be_a_link(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path / "elsewhere")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "1").symlink_to(folder)
    assert read_bundle(tmp_path / "models" / "tiny" / "1").manifest.name == "tiny"


def test_what_is_missing_is_told_from_what_is_damaged(tmp_path: Path, maker: BundleMaker) -> None:
    folder = maker.write(tmp_path)
    (folder / "golden" / "samples.safetensors").unlink()
    with pytest.raises(BundleIncomplete, match=r"samples\.safetensors is missing"):
        read_bundle(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(BundleIncomplete, match="SHA256SUMS is missing"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"hello",
        f"{HASH}  manifest.json\n{HASH}  manifest.json".encode(),
        f"{HASH}  ../manifest.json".encode(),
        f"{HASH[1:]}g  manifest.json".encode(),
        f"{HASH} manifest.json".encode(),
        f"{HASH}  other".encode(),
        b"",
    ],
)
def test_a_malformed_list_is_refused(content: bytes) -> None:
    with pytest.raises(BundleCorrupt):
        parse_checksums(content, "SHA256SUMS")


def test_a_language_model_is_no_classifier() -> None:
    task = LanguageModelling.model_construct(kind="language-modelling")
    manifest = Manifest.model_construct(name="words", task=task)
    with pytest.raises(TaskMismatch, match="'words' is no image classifier: its task is language-modelling"):
        _ = manifest.classification
