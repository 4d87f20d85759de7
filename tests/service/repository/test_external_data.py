"""A graph may name files for its weights: these must lie beside it in the bundle, and be among its checksums."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from service.bundle import write_checksums
from service.errors import ModelNotReady
from tests.service.repository.running import opened
from tests.service.tiny_bundle import BundleMaker, make_graph


def moved_to(location: str) -> Callable[[onnx.ModelProto], None]:
    """Return what lets the first weight of a graph be read from a file, which the graph names by `location`."""

    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        length = len(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value

    return change


@pytest.fixture
def content(maker: BundleMaker) -> bytes:
    """Return the bytes of that weight: the right ones, so that only their place can be what is refused."""
    return bytes(make_graph(maker.weights).graph.initializer[0].raw_data)


def refusal(root: Path) -> str:
    with pytest.raises(ModelNotReady) as caught:
        opened(root).get("tiny")
    return str(caught.value)


def test_weights_beside_the_graph_are_read(tmp_path: Path, maker: BundleMaker, content: bytes) -> None:
    def add(folder: Path) -> None:
        (folder / "graphs" / "weights.bin").write_bytes(content)

    maker.write(tmp_path, graph=moved_to("weights.bin"), files=add)
    assert opened(tmp_path).get("tiny").version == "1"


@pytest.mark.parametrize("location", ["../../../../outside.bin", "ABSOLUTE", "inner/../../../../../outside.bin"])
def test_weights_outside_the_bundle_are_refused(
    tmp_path: Path, maker: BundleMaker, content: bytes, location: str
) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(content)
    root = tmp_path / "models"
    location = location.replace("ABSOLUTE", str(outside))
    folder = maker.write(root, graph=moved_to(location), files=lambda folder: (folder / "graphs" / "inner").mkdir())
    assert (folder / "graphs" / location).read_bytes() == content, "the test would prove nothing"
    assert "cannot be opened" in refusal(root)


def test_a_link_to_weights_outside_is_refused(tmp_path: Path, maker: BundleMaker, content: bytes) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(content)

    def link(folder: Path) -> None:
        (folder / "graphs" / "weights.bin").symlink_to(outside)

    maker.write(tmp_path / "models", graph=moved_to("weights.bin"), files=link)
    assert "is a link that leaves the bundle" in refusal(tmp_path / "models")


def test_weights_without_a_checksum_are_refused(tmp_path: Path, maker: BundleMaker, content: bytes) -> None:
    folder = maker.write(tmp_path, graph=moved_to("weights.bin"))
    (folder / "graphs" / "weights.bin").write_bytes(content)
    assert "weights.bin is not listed in SHA256SUMS" in refusal(tmp_path)


def test_weights_of_which_a_part_is_missing_are_refused(tmp_path: Path, maker: BundleMaker, content: bytes) -> None:
    folder = maker.write(tmp_path, graph=moved_to("weights.bin"))
    (folder / "graphs" / "weights.bin").write_bytes(content[:-4])
    write_checksums(folder)
    assert "cannot be opened" in refusal(tmp_path)
