"""Graphs of one model share their weights: one file holds each tensor once, and the graphs compute the same."""

from pathlib import Path

import numpy as np
import pytest

from export.graph import LOGITS
from export.language.full_graph import INPUT_IDS, export_full_graph
from export.language.step_graph import export_step_graph
from export.language.weights import SMALLEST, save_sharing
from tests.export.language_networks import BASE, close, exported, network, open_session, random_ids, whole
from tests.export.step_runner import StepRunner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    model = network(BASE)
    graphs = {"full.onnx": export_full_graph(model), "step.onnx": export_step_graph(model)}
    save_sharing(folder, graphs, "weights.bin")
    return folder


def test_each_tensor_is_there_once(folder: Path) -> None:
    large = [p.numel() * 4 for p in network(BASE).parameters() if p.numel() * 4 >= SMALLEST]
    assert len(large) > 1
    size = (folder / "weights.bin").stat().st_size
    assert sum(large) <= size < sum(large) + 4096 * len(large)
    assert sorted(path.name for path in folder.iterdir()) == ["full.onnx", "step.onnx", "weights.bin"]


def test_both_graphs_give_torchs_numbers(folder: Path) -> None:
    graph, ids = exported(network(BASE), folder / "full.onnx"), random_ids(2, 5)
    expected = whole(graph.exact, ids)[LOGITS]
    close(open_session(folder / "full.onnx", None).run([LOGITS], {INPUT_IDS: ids})[0], expected, LOGITS)
    close(StepRunner(open_session(folder / "step.onnx", None), 2, 8).step(ids)[LOGITS], expected, LOGITS)


def test_graphs_can_be_moved_with_their_weights(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ids = random_ids(1, 4)
    here, there = (
        open_session(place / "full.onnx", None).run([LOGITS], {INPUT_IDS: ids})[0] for place in (folder, tmp_path)
    )
    assert np.array_equal(here, there)
