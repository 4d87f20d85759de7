"""The graph of a decode step: any split of a text is the whole text, rows are apart, keys and values stay in place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ddl_model import LanguageModel, ResidualConfig
from ddl_model.delta_op import NO_OVERRIDE
from export.graph import LOGITS, override_input
from export.language.step_graph import DecodeStep, export_step_graph
from tests.ddl_model.test_language_model import CONFIGS, lively_model
from tests.export.language_networks import (
    BASE,
    CLOSE,
    GATED,
    NETWORKS,
    Exported,
    close,
    exported,
    network,
    open_session,
    random_ids,
    whole,
)
from tests.export.step_runner import IN_PLACE, StepRunner

TOKENS = 9
SLOTS = 16


@pytest.fixture(scope="module", params=NETWORKS)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = network(NETWORKS[request.param])
    file = tmp_path_factory.mktemp("step") / "step.onnx"
    export_step_graph(model).save(str(file))
    return exported(model, file)


@pytest.fixture(params=["plain body", "kernel"])
def library(request: pytest.FixtureRequest) -> Path | None:
    return request.getfixturevalue("kernel_library") if request.param == "kernel" else None


@pytest.fixture(scope="module")
def ids() -> NDArray[np.int64]:
    return random_ids(3, TOKENS)


def test_any_split_into_chunks_is_the_whole_text(graph: Exported, library: Path | None, ids: NDArray[np.int64]) -> None:
    session, full = open_session(graph.file, library), whole(graph.exact, ids[:1])
    for split in ([9], [1] * 9, [1, 8], [2, 1, 1, 5], [7, 2]):
        row = StepRunner(session, 1, SLOTS)
        parts = [row.step(chunk) for chunk in np.split(ids[:1], np.cumsum(split)[:-1], axis=1)]
        for name, tensor in full.items():
            close(np.concatenate([part[name] for part in parts], axis=1), tensor, name)
        assert row.lengths.tolist() == [TOKENS]


def test_rows_of_different_lengths_decode_like_rows_alone(
    graph: Exported, library: Path | None, ids: NDArray[np.int64]
) -> None:
    alone = [whole(graph.exact, ids[row : row + 1]) for row in range(3)]
    lengths = [2, 6, 1]  # the first and the last are shorter than convolutions reach
    batch = StepRunner(open_session(graph.file, library), 3, SLOTS)
    prompt = np.full((3, 6), 30)
    for row, length in enumerate(lengths):
        prompt[row, :length] = ids[row, :length]
    seen = batch.step(prompt, counts=lengths)
    for row, length in enumerate(lengths):
        for name, tensor in alone[row].items():
            close(seen[name][row, :length], tensor[0, :length], name)
    # Each row goes on by one token, or waits.
    for waits in ([False, False, False], [True, False, False], [False, True, True], [False, True, False]):
        at = batch.lengths.copy()
        tokens = np.array([[30 if waits[row] else ids[row, at[row]]] for row in range(3)])
        seen = batch.step(tokens, counts=[int(not wait) for wait in waits])
        for row in range(3):
            for name, tensor in alone[row].items() if not waits[row] else ():
                close(seen[name][row, 0], tensor[0, at[row]], name)
    assert batch.lengths.tolist() == [5, 8, 4]


@pytest.mark.parametrize("graph", GATED, indirect=True)
def test_overrides_change_gates_in_every_step(graph: Exported, library: Path | None, ids: NDArray[np.int64]) -> None:
    sites = graph.model.sites
    per_token = np.tile(np.float32(NO_OVERRIDE), (1, TOKENS, 1))
    per_token[:, ::2, :2] = 0.0, 1.25  # every other token: beta = 1.25
    per_token[:, 1, 4] = 0.0  # one token does not erase
    for_all = np.float32([[[0.5, 0.0, 0.2, 0.6, 1.0, 0.0]]])
    changes = {sites[0]: per_token, sites[-1]: for_all}
    none = torch.tensor([[NO_OVERRIDE]])
    full = whole(graph.exact, ids[:1], {site: torch.from_numpy(changes.get(site, none.numpy())) for site in sites})
    row = StepRunner(open_session(graph.file, library), 1, SLOTS)
    for chunk in (slice(0, 5), slice(5, 6), slice(6, 9)):
        given = {override_input(sites[0]): per_token[:, chunk], override_input(sites[-1]): for_all}
        seen = row.step(ids[:1, chunk], overrides=given)
        for name, tensor in full.items():
            close(seen[name], tensor[:, chunk], name)
    unchanged = whole(graph.exact, ids[:1])
    assert not np.allclose(full[LOGITS], unchanged[LOGITS], **CLOSE)


def test_logits_come_for_the_wanted_tokens_alone(graph: Exported, ids: NDArray[np.int64]) -> None:
    full = whole(graph.exact, ids)[LOGITS]
    session = open_session(graph.file, None)
    for wanted in ([8, 17, 26], [20, 3], []):
        seen = StepRunner(session, 3, SLOTS).step(ids, logits_of=wanted)
        close(seen[LOGITS], full.reshape(27, -1)[wanted], LOGITS)


def test_keys_and_values_are_written_in_place_and_nowhere_else(graph: Exported, ids: NDArray[np.int64]) -> None:
    batch = StepRunner(open_session(graph.file, None), 3, SLOTS)
    batch.step(ids[:, :4])
    before = {name: array.copy() for name, array in batch.past.items() if name.startswith(IN_PLACE)}
    batch.step(ids[:, 4:5])
    for name, array in before.items():
        after = batch.past[name]
        assert np.array_equal(after[:, :, :4], array[:, :, :4])
        assert np.isfinite(after[:, :, 4]).all()
        assert np.isnan(after[:, :, 5:]).all()
        assert np.isnan(array[:, :, 4:]).all()


def test_a_row_that_is_full_is_refused(graph: Exported, ids: NDArray[np.int64]) -> None:
    row = StepRunner(open_session(graph.file, None), 1, 4)
    row.step(ids[:1, :4])
    with pytest.raises(Exception, match="present"):
        row.step(ids[:1, 4:5])


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_what_is_traced_is_the_model_for_every_configuration(name: str, ids: NDArray[np.int64]) -> None:
    """Before any graph: the step over buffers of fixed size, in torch, chunk by chunk."""
    model = lively_model(CONFIGS[name])
    step = DecodeStep(model)
    full, tokens = model(torch.from_numpy(ids)), torch.from_numpy(ids)
    cache = [place.empty(3, SLOTS, torch.float64) for place in step.layout]
    lengths = torch.zeros(3, dtype=torch.int64)
    for columns in (1, 5, 1, 2):
        chunk = tokens[:, int(lengths[0]) : int(lengths[0]) + columns]
        counts = torch.full((3,), columns)
        logits, *rest = step(chunk, lengths, counts, torch.arange(3 * columns), cache)
        torch.testing.assert_close(logits.view(3, columns, -1), full[:, lengths[0] : lengths[0] + columns])
        cache, lengths = rest[: len(cache)], lengths + counts
        assert [tensor.shape for tensor in cache] == [place.empty(3, SLOTS).shape for place in step.layout]


def test_what_no_graph_can_do_is_refused_by_its_field() -> None:
    attention = replace(BASE.attention, head_width=6)
    for config, message in (
        (replace(BASE, attention=attention), "attention.head_width must be a multiple of 8 to decode .* got 6"),
        (replace(BASE, residual=ResidualConfig(gate="grouped", gate_groups=2)), "residual.gate must be 'linear'"),
        (replace(BASE, residual=ResidualConfig(direction_norm="exact")), "residual.direction_norm must be 'guarded'"),
    ):
        with pytest.raises(RuntimeError, match=message):
            export_step_graph(LanguageModel(config))
