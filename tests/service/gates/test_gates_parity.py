"""Every number of a trace is the torch model's."""

from typing import Any

import numpy as np
import pytest
import torch

from ddl_model.quantities.catalogue import QuantityError
from ddl_model.quantities.trace import trace
from service.gates.quantities import QUANTITIES
from tests.service.gates.conftest import TOLERANCE, Served, arrays, tokens_of

LOOSE: dict[str, dict[str, Any]] = {
    "path_logdet": {"rtol": 1e-3, "atol": 1e-3},
    "balance": {"rtol": 1e-3, "atol": 1e-4},
}


def everything(served: Served, model: str) -> list[str]:
    meta = served.client.get(f"/v1/models/{model}/gates/meta").json()
    return [quantity["name"] for quantity in meta["quantities"] if quantity["available"]]


def pixels(rows: int = 1) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((rows, 1, 18, 15)).astype(np.float32)


def tensor(values: np.ndarray) -> dict[str, Any]:
    return {"tensor": {"shape": list(values.shape), "data": values.ravel().tolist()}}


def torch_values(served: Served, model: str, inputs: torch.Tensor, names: list[str]) -> dict[str, np.ndarray]:
    """Return what torch says, one row: (site, row, position, ...) without the row."""
    found = trace(served.models[model], inputs, names, top_k=5 if model != "pictures" else 3)
    return {
        name: np.moveaxis(found[name].numpy(), found.axes(name).index("row"), 0)[0].astype(np.float64) for name in names
    }


@pytest.mark.parametrize("model", ["words", "writer", "mixer", "faint", "pictures"])
def test_every_quantity_is_the_torch_models(served: Served, model: str) -> None:
    names = everything(served, model)
    if model == "pictures":
        images = pixels()
        inputs, given = torch.from_numpy(images), tensor(images)
    else:
        ids = tokens_of(served)
        inputs, given = torch.tensor([ids]), {"token_ids": ids}
    answer = served.ask(model, given, quantities=names, lens={"top_k": 3 if model == "pictures" else 5})
    values = arrays(answer["results"][0])
    expected = torch_values(served, model, inputs, names)
    assert set(values) == set(names)
    for name in names:
        actual, wanted = values[name], expected[name]
        if name in ("lens_topk", "rewrite_of"):
            assert (actual == wanted).mean() > 0.98, name  # near ties may fall either way
            continue
        assert actual.shape == wanted.shape, name
        finite = np.isfinite(wanted)
        np.testing.assert_allclose(actual[finite], wanted[finite], **LOOSE.get(name, TOLERANCE), err_msg=name)
        assert not np.isfinite(actual[~finite]).any(), name


def test_what_torch_has_not_the_service_has_not(served: Served) -> None:
    ids = torch.tensor([tokens_of(served)])
    for model in ("words", "writer", "mixer", "faint"):
        available = set(everything(served, model))
        for name in QUANTITIES:
            try:
                trace(served.models[model], ids, [name])  # type: ignore[arg-type]
            except QuantityError:
                assert name not in available, (model, name)
            else:
                assert name in available, (model, name)


def test_write_only_has_no_contraction(served: Served) -> None:
    meta = served.client.get("/v1/models/writer/gates/meta").json()
    assert not {"eigenvalue", "balance", "survival", "erase_norm"} & {row["name"] for row in meta["quantities"]}
    for name in ("eigenvalue", "balance", "survival"):
        response = served.post("writer", {"inputs": {"token_ids": [1, 2]}, "quantities": [name]})
        assert (response.status_code, response.json()["type"]) == (422, "urn:ddl:problem:quantity-not-defined")
        assert "beta" in response.json()["defined"]
    response = served.post("writer", {"inputs": {"token_ids": [1]}, "interventions": [{"op": "drop_erase"}]})
    assert (response.status_code, response.json()["type"]) == (422, "urn:ddl:problem:bad-intervention")


@pytest.mark.parametrize("model", ["words", "faint"])
def test_the_identities_hold_on_the_returned_numbers(served: Served, model: str) -> None:
    names = [
        "beta",
        "k_norm",
        "eigenvalue",
        "e_pre",
        "e_post",
        "e_pre_norm",
        "update_norm",
        "energy_delta",
        "state_norm",
    ]
    q = arrays(served.ask(model, {"token_ids": tokens_of(served)}, quantities=names)["results"][0])
    assert q["beta"].std() > 0.05
    assert q["beta"].min() >= 0
    assert q["beta"].max() <= 2
    np.testing.assert_allclose(q["eigenvalue"], 1 - q["beta"] * q["k_norm"] ** 2, atol=1e-5)
    np.testing.assert_allclose(q["e_post"], q["eigenvalue"][..., None] * q["e_pre"], atol=1e-5)
    np.testing.assert_allclose(q["update_norm"], q["beta"] * q["k_norm"] * q["e_pre_norm"], rtol=1e-5, atol=1e-6)
    squares = q["state_norm"] ** 2
    np.testing.assert_allclose(q["energy_delta"][:-1], np.diff(squares, axis=0), rtol=1e-4, atol=1e-4)


def test_directions_of_next_to_nothing_are_shorter_than_one(served: Served) -> None:
    ids = {"token_ids": tokens_of(served)}
    q = arrays(served.ask("faint", ids, quantities=["k_norm", "k_raw_norm", "eigenvalue", "beta"])["results"][0])
    assert 1e-5 < np.median(q["k_raw_norm"]) < 1e-3
    eps = served.client.state.repository.get("faint").manifest.gates.direction_eps  # type: ignore[union-attr]
    np.testing.assert_allclose(q["k_norm"], q["k_raw_norm"] / np.hypot(q["k_raw_norm"], eps), rtol=1e-5)
    assert q["k_norm"].min() < 0.999
    assert np.abs(q["eigenvalue"] - (1 - q["beta"])).max() > 1e-3  # the guard is in the eigenvalue


@pytest.mark.parametrize("model", ["words", "writer", "mixer", "faint"])
def test_looking_changes_no_bit_of_the_answer(served: Served, model: str) -> None:
    loaded = served.client.state.repository.get(model)
    assert loaded.manifest.gates is not None
    feed = {"input_ids": np.array([tokens_of(served)])}
    every = [spec.name for spec in loaded.manifest.graph.outputs]
    plain = loaded.session.run(feed, ["logits"])["logits"]
    assert len(every) > 10
    assert np.array_equal(loaded.session.run(feed, every)["logits"], plain)


@pytest.mark.parametrize("model", ["words", "writer", "faint"])
def test_contributions_sum_to_the_logit(served: Served, model: str) -> None:
    ids = tokens_of(served)
    lens = {"targets": [3, 7], "positions": [-1, 0, 2]}
    result = served.ask(model, {"token_ids": ids}, quantities=["logit_contrib"], lens=lens)["results"][0]
    with torch.no_grad():
        logits = served.models[model](torch.tensor([ids])).numpy()[0]
    total = arrays(result)["logit_contrib"].sum(0)
    np.testing.assert_allclose(total, logits[[len(ids) - 1, 0, 2]][:, [3, 7]], atol=1e-4)
    assert result["lens"]["positions"] == [len(ids) - 1, 0, 2]


def test_contributions_of_patches_sum_to_the_class(served: Served) -> None:
    images = pixels()
    asked = {"quantities": ["logit_contrib"], "lens": {"targets": [0, 2], "top_k": 1}}
    result = served.ask("pictures", tensor(images), **asked)["results"][0]
    with torch.no_grad():
        logits = served.models["pictures"](torch.from_numpy(images)).numpy()[0]
    total = arrays(result)["logit_contrib"].sum((0, 1)) + result["lens"]["bias"]
    np.testing.assert_allclose(total, logits[[0, 2]], atol=1e-4)


def test_fractions_lie_between_0_and_1(served: Served) -> None:
    names = ["survival", "embedding_kept", "path_sigma", "path_logdet", "eigenvalue"]
    q = arrays(served.ask("words", {"token_ids": tokens_of(served)}, quantities=names)["results"][0])
    for name in names[:3]:
        assert q[name].min() >= 0, name
        assert q[name].max() <= 1 + 1e-6, name
    np.testing.assert_allclose(q["path_logdet"], np.log10(np.abs(q["eigenvalue"])).sum(0), atol=1e-3)


def test_inputs_of_different_length_are_as_if_alone(served: Served) -> None:
    texts = ["a delta rule", "moves", "what is read along one direction towards what is wanted"]
    names = ["beta", "e_post", "state_norm", "survival"]
    together = served.ask("words", {"prompt": texts}, quantities=names)["results"]
    assert len({len(result["tokens"]["ids"]) for result in together}) == 3
    for text, result in zip(texts, together, strict=True):
        alone = served.ask("words", {"prompt": text}, quantities=names)["results"][0]
        assert result["tokens"] == alone["tokens"]
        for name in names:
            np.testing.assert_allclose(arrays(result)[name], arrays(alone)[name], atol=1e-5)


def test_the_echoed_ids_reproduce_the_tensors_bit_by_bit(served: Served) -> None:
    by_text = served.ask("words", {"prompt": "read \N{GRINNING FACE} one"}, quantities="page")["results"][0]
    tokens = by_text["tokens"]
    by_ids = served.ask("words", {"token_ids": tokens["ids"]}, quantities="page")["results"][0]
    assert by_text["tensors"] == by_ids["tensors"]
    assert tokens["is_continuation"].count(True) == 3
    assert not any(tokens["is_special"])
    end = served.client.state.repository.get("words").language.tokenizer.end_of_text
    if end is not None:
        assert served.ask("words", {"token_ids": [end]})["results"][0]["tokens"]["is_special"] == [True]


def test_a_selection_is_a_slice_of_the_whole(served: Served) -> None:
    ids = {"token_ids": tokens_of(served)}
    names = ["beta", "v", "survival", "update_ratio"]
    whole = arrays(served.ask("words", ids, quantities=names)["results"][0])
    select = {"layers": [1], "sublayers": ["attn"], "positions": {"from": -5, "to": -1, "stride": 2}}
    part = served.ask("words", ids, quantities=names, select=select)
    assert [site["name"] for site in part["sites"]] == ["1.attn"]
    for name, values in arrays(part["results"][0]).items():
        assert np.array_equal(values, whole[name][[2], -5:-1:2]), name
    assert served.post("words", {"inputs": ids, "select": {"layers": [2]}}).status_code == 422
