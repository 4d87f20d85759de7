"""Interventions do what the torch model's do, and their effect is told right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ddl_model.interventions import Intervention
from ddl_model.quantities.trace import trace
from service.gates.head import log_softmax
from tests.service.gates.conftest import TOLERANCE, Served, arrays, tokens_of

NAMES = ["beta", "e_pre_norm", "state_norm", "survival"]
OTHER = "moves one direction towards what is read"

Case = tuple[list[dict[str, Any]], Sequence[Intervention]]
CASES: dict[str, Case] = {
    "set": (
        [{"op": "set", "value": 0.25, "where": {"sites": ["0.mlp", 2], "positions": [1, -1]}}],
        [Intervention("set", value=0.25, sites=("0.mlp", "1.attn"), positions=(1, -1))],
    ),
    "scale": ([{"op": "scale", "value": 1.5}], [Intervention("scale", value=1.5)]),
    "clamp": (
        [{"op": "clamp", "min": 0.5, "max": 1.0, "where": {"layers": [0]}}],
        [Intervention("clamp", low=0.5, high=1.0, sites=("0.attn", "0.mlp"))],
    ),
    "mean": (
        [{"op": "mean", "where": {"sites": ["0.attn"]}}],
        [Intervention("mean", sites=("0.attn",))],
    ),
    "without erasing": (
        [{"op": "drop_erase", "where": {"sublayers": ["mlp"]}}],
        [Intervention("drop_erase", sites=("0.mlp", "1.mlp"))],
    ),
    "without writing": (
        [{"op": "drop_write", "where": {"positions": {"from": 2}}}],
        [Intervention("drop_write", positions=tuple(range(2, 7)))],
    ),
    "in their order": (
        [
            {"op": "set", "value": 1.8},
            {"op": "scale", "value": 0.5, "where": {"positions": [0, 1]}},
            {"op": "clamp", "max": 0.7, "where": {"positions": [1, 2]}},
            {"op": "drop_erase", "where": {"sites": ["1.mlp"]}},
        ],
        [
            Intervention("set", value=1.8),
            Intervention("scale", value=0.5, positions=(0, 1)),
            Intervention("clamp", high=0.7, positions=(1, 2)),
            Intervention("drop_erase", sites=("1.mlp",)),
        ],
    ),
}


def ids_of(served: Served) -> list[int]:
    return tokens_of(served)[:7]


@pytest.mark.parametrize("case", CASES)
def test_a_changed_run_is_torchs(served: Served, case: str) -> None:
    asked, wanted = CASES[case]
    ids = ids_of(served)
    result = served.ask("words", {"token_ids": ids}, quantities=NAMES, interventions=asked)["results"][0]
    inputs, model = torch.tensor([ids]), served.models["words"]
    changed = trace(model, inputs, NAMES, interventions=wanted)
    unchanged = trace(model, inputs, NAMES)
    for part, expected in ((result, changed), (result["baseline"], unchanged)):
        for name, values in arrays(part).items():
            np.testing.assert_allclose(values, expected[name][:, 0].numpy(), **TOLERANCE, err_msg=name)
    before, after = log_softmax(unchanged.logits[0].numpy()), log_softmax(changed.logits[0].numpy())
    effect = result["effect"]
    np.testing.assert_allclose(effect["kl_nats"], (np.exp(before) * (before - after)).sum(-1), atol=5e-5)
    losses = [before[place, token] - after[place, token] for place, token in enumerate(ids[1:])]
    np.testing.assert_allclose(effect["delta_nll"][:-1], losses, atol=1e-4)
    assert effect["delta_nll"][-1] is None
    assert effect["top1_changed"] == (before.argmax(-1) != after.argmax(-1)).tolist()
    assert effect["top1_after"] == after.argmax(-1).tolist()
    assert set(effect["words"]) == {str(i) for i in (*effect["top1_before"], *effect["top1_after"])}


@pytest.mark.parametrize("model", ["words", "writer", "mixer", "faint"])
def test_closed_gates_leave_the_identity_network(served: Served, model: str) -> None:
    ids = ids_of(served)
    asked = [{"op": "set", "value": 0.0}]
    result = served.ask(model, {"token_ids": ids}, quantities=["drift", "beta"], interventions=asked)["results"][0]
    assert not arrays(result)["drift"].any()
    expected = trace(served.models[model], torch.tensor([ids]), "core", interventions=[Intervention("set", value=0.0)])
    best = expected.logits[0, -1].log_softmax(-1)
    top = result["prediction"]["top"]
    assert [word["logprob"] for word in top] == pytest.approx(best.topk(5).values.tolist(), abs=1e-5)


def test_open_gates_overwrite_and_double_gates_reflect(served: Served) -> None:
    ids = {"token_ids": ids_of(served)}
    names = ["e_pre", "e_post", "e_pre_norm", "e_post_norm", "k_norm"]
    one = arrays(served.ask("words", ids, quantities=names, interventions=[{"op": "set", "value": 1}])["results"][0])
    np.testing.assert_allclose(one["e_post"], (1 - one["k_norm"] ** 2)[..., None] * one["e_pre"], atol=1e-5)
    assert np.abs(one["e_post"]).max() < 1e-3
    two = arrays(served.ask("words", ids, quantities=names, interventions=[{"op": "set", "value": 2}])["results"][0])
    np.testing.assert_allclose(two["e_post"], -two["e_pre"], atol=1e-4)


def test_a_models_own_gates_change_nothing(served: Served) -> None:
    ids = {"token_ids": ids_of(served)}
    asked = [{"op": "patch", "from": {"input": 0}}]
    result = served.ask("words", ids, interventions=asked)["results"][0]
    assert max(result["effect"]["kl_nats"]) < 1e-9
    assert not any(result["effect"]["top1_changed"])
    assert result["tensors"] == result["baseline"]["tensors"]


def test_a_change_leaves_what_comes_before_it(served: Served) -> None:
    ids = {"token_ids": ids_of(served)}
    where = {"sites": ["1.attn"], "positions": [3]}
    asked = [{"op": "set", "value": 2.0, "where": where}]
    names = ["beta", "proj", "state_norm"]
    result = served.ask("words", ids, quantities=names, interventions=asked)["results"][0]
    changed, unchanged = arrays(result), arrays(result["baseline"])
    for name in names:
        np.testing.assert_allclose(changed[name][:2], unchanged[name][:2], atol=1e-6)
        np.testing.assert_allclose(changed[name][:, :3], unchanged[name][:, :3], atol=1e-6)
    assert not np.allclose(changed["state_norm"][3:, 3], unchanged["state_norm"][3:, 3])
    assert result["effect"]["applied"] == {
        "cells": 1,
        "sites": 1,
        "beta_before_mean": pytest.approx(unchanged["beta"][2, 3]),
        "beta_after_mean": 2.0,
    }


def test_a_patch_takes_the_gates_of_the_other_input_where_both_agree(served: Served) -> None:
    texts = [OTHER + " alone", OTHER + " leaves"]
    patch = [{"op": "patch", "from": {"inputs": {"prompt": "moves two " + OTHER[10:]}}}]
    plain = served.ask("words", {"prompt": texts})["results"]
    other = served.ask("words", {"prompt": "moves two " + OTHER[10:]})["results"][0]
    result = served.ask("words", {"prompt": OTHER}, interventions=patch)["results"][0]
    own, theirs = result["tokens"]["ids"], other["tokens"]["ids"]
    head = next(i for i, (a, b) in enumerate(zip(own, theirs, strict=False)) if a != b)
    beta = arrays(result)["beta"]
    np.testing.assert_allclose(beta[:, :head], arrays(other)["beta"][:, :head], atol=1e-6)
    np.testing.assert_allclose(beta[:, -1], arrays(other)["beta"][:, -1], atol=1e-6)
    both = served.ask("words", {"prompt": texts}, interventions=[{"op": "patch", "from": {"input": 1}}])["results"]
    np.testing.assert_allclose(arrays(both[1])["beta"], arrays(plain[1])["beta"], atol=1e-6)


def test_the_direct_effect_is_that_of_the_algebra_and_at_the_last_site_the_whole(served: Served) -> None:
    ids = {"token_ids": ids_of(served)}
    last = [{"op": "set", "value": 0.0, "where": {"sites": ["1.mlp"]}}]
    frozen = served.ask("words", ids, interventions=last, mode="frozen")["results"][0]["effect"]
    whole = served.ask("words", ids, interventions=last)["results"][0]["effect"]
    np.testing.assert_allclose(frozen["kl_nats"], whole["kl_nats"], atol=1e-4)
    np.testing.assert_allclose(frozen["target_logit_delta"], whole["target_logit_delta"], atol=1e-4)
    first = [{"op": "set", "value": 0.0, "where": {"sites": ["0.attn"]}}]
    direct = served.ask("words", ids, interventions=first, mode="frozen")["results"][0]["effect"]
    total = served.ask("words", ids, interventions=first)["results"][0]["effect"]
    assert direct["mode"] == "frozen"
    assert not np.allclose(direct["kl_nats"], total["kl_nats"], rtol=0.05)
    pictures = {"tensor": {"shape": [1, 1, 18, 15], "data": [0.3] * 270}}
    small = served.ask("pictures", pictures, interventions=last, mode="frozen")["results"][0]["effect"]
    large = served.ask("pictures", pictures, interventions=last)["results"][0]["effect"]
    np.testing.assert_allclose(small["kl_nats"], large["kl_nats"], atol=1e-4)
    assert small["delta_nll"] is None


@pytest.mark.parametrize(
    "entry",
    [
        {"op": "set", "value": 2.5},
        {"op": "set", "value": -0.1},
        {"op": "scale", "value": -1},
        {"op": "clamp", "min": 1.5, "max": 1.0},
        {"op": "mean", "source": "reference"},
        {"op": "set", "value": 1, "where": {"sites": ["7.mlp"]}},
        {"op": "set", "value": 1, "where": {"layers": [5]}},
        {"op": "set", "value": 1, "where": {"positions": [99]}},
        {"op": "set", "value": 1, "where": {"positions": "generated"}},
        {"op": "patch", "from": {"input": 3}},
        {"op": "patch", "from": {"inputs": {"token_ids": [200, 201]}}},
    ],
)
def test_what_no_gate_can_do_is_422(served: Served, entry: dict[str, Any]) -> None:
    response = served.post("words", {"inputs": {"token_ids": [5, 6, 7]}, "interventions": [entry]})
    assert (response.status_code, response.json()["type"]) == (422, "urn:ddl:problem:bad-intervention"), response.text


def test_a_sweep_is_the_single_runs(served: Served) -> None:
    ids = {"token_ids": ids_of(served)}
    found = served.ask("words", ids, "/sweep", values=[0.0, 2.0])
    assert [(row["site"], row["value"]) for row in found["variants"]] == [
        (site["name"], value) for site in found["sites"] for value in (0.0, 2.0)
    ]
    for mode in ("rerun", "frozen"):
        rows = served.ask("words", ids, "/sweep", values=[0.0, 2.0], mode=mode)["variants"]
        for row in rows[::3]:
            asked = [{"op": "set", "value": row["value"], "where": {"sites": [row["site"]]}}]
            alone = served.ask("words", ids, interventions=asked, mode=mode)["results"][0]
            effect = alone["effect"]
            assert row["effect"]["kl_nats"] == pytest.approx(np.mean(effect["kl_nats"]), abs=1e-5)
            assert row["effect"]["kl_last"] == pytest.approx(effect["kl_nats"][-1], abs=1e-5)
            assert row["effect"]["delta_nll"] == pytest.approx(np.mean(effect["delta_nll"][:-1]), abs=1e-5)
            assert row["effect"]["target_logit_delta"] == pytest.approx(effect["target_logit_delta"][-1], abs=1e-4)
            assert row["prediction"]["top"][0]["id"] == alone["prediction"]["top"][0]["id"]


def test_a_sweep_takes_variants_and_no_more_than_it_can_run(served: Served) -> None:
    ids = {"token_ids": ids_of(served)}
    variants = [[{"op": "drop_erase"}], [{"op": "set", "value": 0}, {"op": "drop_write"}]]
    found = served.ask("words", ids, "/sweep", variants=variants)["variants"]
    assert [row["site"] for row in found] == [None, None]
    assert found[1]["interventions"][1]["op"] == "drop_write"
    body = {"inputs": ids, "values": [0.1] * 20}
    refused = served.post("words", body, "/sweep")
    assert (refused.status_code, refused.json()["limit_cells"]) == (413, 64)
    for patch in refused.json()["try"]:
        assert served.post("words", {**body, **patch}, "/sweep").status_code == 200


def test_a_comparison_subtracts_where_the_inputs_agree(served: Served) -> None:
    runs = [{"inputs": {"prompt": OTHER}}, {"inputs": {"prompt": "moves two " + OTHER[10:]}}]
    response = served.post("words", {"runs": runs, "quantities": ["beta", "state_norm"]}, "/compare")
    assert response.status_code == 200, response.text
    found = response.json()
    tensors = arrays(found)
    a, b = found["alignment"]["a"], found["alignment"]["b"]
    ids = [run["tokens"]["ids"] for run in found["runs"]]
    assert [ids[0][i] for i in a] == [ids[1][i] for i in b]
    assert len(a) < len(ids[0])
    for name in ("beta", "state_norm"):
        alone = arrays(served.ask("words", runs[0]["inputs"], quantities=[name])["results"][0])[name]
        np.testing.assert_allclose(tensors[f"a/{name}"], alone, atol=1e-6)
        difference = tensors[f"a/{name}"][:, a] - tensors[f"b/{name}"][:, b]
        np.testing.assert_allclose(tensors[f"difference/{name}"], difference, atol=1e-5)
    same = [runs[0], {**runs[0], "interventions": [{"op": "set", "value": 1.0}]}]
    changed = served.post("words", {"runs": same}, "/compare").json()
    np.testing.assert_allclose(arrays(changed)["b/beta"], 1.0)
