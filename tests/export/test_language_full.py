"""The graph of whole texts: logits and gates as torch computes them, for rows of any number and length."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import numpy as np
import onnx
import onnx.reference
import pytest
import torch

from ddl_model import AttentionConfig, LanguageModel, ResidualConfig, StateConfig
from ddl_model.delta_op import NO_OVERRIDE
from export.graph import LOGITS, gate_outputs, override_input
from export.language.full_graph import INPUT_IDS, export_full_graph
from export.ops.contract import DOMAIN, REWRITES
from tests.export.language_networks import (
    BASE,
    GATED,
    NETWORKS,
    Exported,
    Floats,
    close,
    exported,
    network,
    open_session,
    random_ids,
    whole,
)


@pytest.fixture(scope="module", params=NETWORKS)
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = network(NETWORKS[request.param])
    file = tmp_path_factory.mktemp("full") / "full.onnx"
    export_full_graph(model).save(str(file))
    return exported(model, file)


@pytest.fixture(params=["plain body", "kernel"])
def library(request: pytest.FixtureRequest) -> Path | None:
    return request.getfixturevalue("kernel_library") if request.param == "kernel" else None


def run(graph: Exported, library: Path | None, feeds: Mapping[str, np.ndarray]) -> dict[str, Floats]:
    session = open_session(graph.file, library)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 1), (1, 2), (3, 7)])
def test_logits_and_gates_are_torchs(graph: Exported, library: Path | None, rows: int, tokens: int) -> None:
    ids = random_ids(rows, tokens)
    seen = run(graph, library, {INPUT_IDS: ids})
    assert list(seen) == [LOGITS, *gate_outputs(graph.model.sites)]
    for name, tensor in whole(graph.exact, ids).items():
        close(seen[name], tensor, name)


@pytest.mark.parametrize("graph", GATED, indirect=True)
def test_overrides_change_gates(graph: Exported, library: Path | None) -> None:
    sites, ids = graph.model.sites, random_ids(3, 7)
    per_token = np.tile(np.float32(NO_OVERRIDE), (3, 7, 1))
    per_token[1, 2:, :2] = 0.0, 1.5
    for changed, override in ((sites[0], per_token), (sites[-1], np.float32([[[1.0, 0.0, 0.0, 0.4, 0.0, 1.0]]]))):
        given = {site: torch.tensor([[NO_OVERRIDE]]) for site in sites} | {changed: torch.from_numpy(override)}
        seen = run(graph, library, {INPUT_IDS: ids, override_input(changed): override})
        for name, tensor in whole(graph.exact, ids, given).items():
            close(seen[name], tensor, name)


def test_a_graph_has_one_node_for_each_site_and_standard_operators_beside(graph: Exported) -> None:
    model = onnx.load(graph.file)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", DOMAIN}
    rewrites = [node.name for node in model.graph.node if node.op_type in REWRITES]
    assert rewrites == graph.model.sites
    assert not [node for node in model.graph.node if node.op_type == "Shape" and "overrides/" in node.input[0]]


def test_the_reference_evaluator_gives_torchs_numbers(graph: Exported) -> None:
    ids = random_ids(2, 5)
    names = [LOGITS, *gate_outputs(graph.model.sites)]
    seen = onnx.reference.ReferenceEvaluator(onnx.load(graph.file)).run(names, {INPUT_IDS: ids})
    for name, array in zip(names, seen, strict=True):
        close(array, whole(graph.exact, ids)[name], name)


def test_an_additive_network_of_one_channel_needs_no_custom_operator() -> None:
    graph = export_full_graph(network(NETWORKS["additive"]))
    assert graph.custom_ops == {}


def test_the_networks_have_every_choice_that_can_be_exported() -> None:
    refused = {"gate": {"grouped"}, "direction_norm": {"exact", "learned_scale"}}
    for part, kind in (("residual", ResidualConfig), ("state", StateConfig), ("attention", AttentionConfig)):
        for field in fields(kind):
            hint = get_type_hints(kind)[field.name]
            if get_origin(hint) is None and hint is not bool:
                continue
            choices = {True, False} if hint is bool else set(get_args(hint))
            tried = {getattr(getattr(config, part), field.name) for config in NETWORKS.values()}
            if field.name.endswith("_activation"):
                tried |= {"none"}
                choices = tried  # one of each kind of activation is tried, on one projection each
            assert tried == choices - refused.get(field.name, set()), f"{part}.{field.name}"
    activations = {
        getattr(config.attention, f"{what}_activation")
        for config in NETWORKS.values()
        for what in ("query", "key", "value")
    }
    assert activations == {"none", "silu", "relu", "elu+1"}


def test_grouped_gates_are_refused() -> None:
    config = replace(BASE, residual=ResidualConfig(gate="grouped", gate_groups=2))
    with pytest.raises(RuntimeError, match=r"residual\.gate must be 'linear' or 'two_layer'"):
        export_full_graph(LanguageModel(config))
