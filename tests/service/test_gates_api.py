import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ModelFailed
from service.gates.quantities import PRESETS, QUANTITIES
from service.gates.subject import Input, Subject, run
from tests.service.conftest import Client, b64, png
from tests.service.test_predict_api import anything
from tests.service.tiny_bundle import (
    DV,
    EPS,
    GRID,
    HEIGHT,
    LABELS,
    SITES,
    TOKENS,
    WIDTH,
    BundleMaker,
    output_shapes,
    reference,
)

GATES = "/v1/models/tiny/gates"
ALL = [name for name, row in QUANTITIES.items() if row.family == "step"]
"""What a bundle without directions and states can answer."""


def tensor_input(pixels: np.ndarray) -> dict[str, Any]:
    return {"tensor": {"shape": list(pixels.shape), "data": pixels.ravel().tolist()}}


def ask(client: Client, pixels: np.ndarray, **fields: Any) -> Any:
    response = client.post(GATES, json={"inputs": tensor_input(pixels), **fields})
    assert response.status_code == 200, response.text
    return response.json()


def arrays(answer: Any, row: int = 0) -> dict[str, np.ndarray]:
    return {name: np.array(t["data"], np.float64) for name, t in answer["results"][row]["tensors"].items()}


def expected_quantities(maker: BundleMaker, pixels: np.ndarray, row: int = 0) -> dict[str, np.ndarray]:
    """Measure every quantity on the independent network; e_post and update_norm from the state that comes next."""
    outputs = {name: value[row] for name, value in reference(maker.weights, pixels).items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in ALL}
    states = [outputs["state/first"], *(outputs[f"state/{site}"] for site in SITES)]
    for index, site in enumerate(SITES):
        beta, k, v, proj = (outputs[f"{n}"] for n in (f"{site}/beta", f"k/{site}", f"{site}/v", f"{site}/proj"))
        kappa = np.linalg.norm(k, axis=-1)
        after = np.einsum("td,tdv->tv", k, states[index + 1])
        erased = np.linalg.norm(np.einsum("t,td,tv->tdv", beta, k, proj), axis=(1, 2))
        written = np.linalg.norm(np.einsum("t,td,tv->tdv", beta, k, v), axis=(1, 2))
        updated = np.linalg.norm(np.einsum("t,td,tv->tdv", beta, k, v - proj), axis=(1, 2))
        values = {
            "beta": beta,
            "beta_logit": outputs[f"{site}/beta_logit"],
            "proj": proj,
            "v": v,
            "k_raw_norm": outputs[f"{site}/k_raw_norm"],
            "k_norm": kappa,
            "eigenvalue": np.array(
                [np.linalg.det(np.eye(6) - b * np.outer(q, q)) for b, q in zip(beta, k, strict=True)]
            ),
            "e_pre": proj - v,
            "e_pre_norm": np.linalg.norm(proj - v, axis=-1),
            "e_post": after - v,
            "e_post_norm": np.linalg.norm(after - v, axis=-1),
            "erase_norm": erased,
            "write_norm": written,
            "update_norm": updated,
            "balance": (written - erased) / (written + erased),
            "agreement": (v * proj).sum(-1) / (np.linalg.norm(v, axis=-1) * np.linalg.norm(proj, axis=-1)),
            "energy_delta": np.square(states[index + 1]).sum((1, 2)) - np.square(states[index]).sum((1, 2)),
        }
        for name, value in values.items():
            found[name].append(value)
    return {name: np.stack(per_site) for name, per_site in found.items()}


def test_every_quantity_is_what_the_independent_network_measures(
    client: Client, maker: BundleMaker, pixels: np.ndarray
) -> None:
    answer = ask(client, pixels, quantities=ALL)
    expected = expected_quantities(maker, pixels)
    for name, values in arrays(answer).items():
        assert values == pytest.approx(expected[name], rel=2e-3, abs=1e-4), name
    assert set(arrays(answer)) == set(expected) == set(ALL)


def test_the_answer_says_what_it_is(client: Client, pixels: np.ndarray) -> None:
    answer = ask(client, pixels, quantities=ALL)
    assert answer["schema"] == "ddl.gates/1"
    assert (answer["model"], answer["version"], answer["weights_sha256"]) == ("tiny", "1", "0" * 64)
    assert (answer["update_rule"], answer["dtype"], answer["device"]) == ("delta", "float32", "cpu")
    assert [site["name"] for site in answer["sites"]] == list(SITES)
    assert answer["positions"] == {"kind": "patch", "grid": list(GRID)}
    assert answer["results"][0]["positions"] == list(range(TOKENS))
    assert answer["warnings"] == []
    assert list(answer["timing_ms"]) == ["receive", "queue", "decode", "model"]
    for name, tensor in answer["results"][0]["tensors"].items():
        channels = [DV] if "channel" in tensor["axes"] else []
        assert tensor["shape"] == [len(SITES), TOKENS, *channels] == list(np.shape(tensor["data"])), name
        assert tensor["axes"] == list(QUANTITIES[name].axes)
        assert (tensor["unit"], tensor["dtype"], tensor["nonfinite"]) == (QUANTITIES[name].unit, "f32", 0)


def test_the_numbers_lie_in_the_range_that_is_stated(client: Client, pixels: np.ndarray) -> None:
    answer = ask(client, pixels, quantities=ALL)
    for name, tensor in answer["results"][0]["tensors"].items():
        low, high = tensor["range"]
        values = np.array(tensor["data"])
        assert low is None or (values >= low).all(), name
        assert high is None or (values <= high).all(), name


def test_the_identities_of_the_rewrite_hold_on_the_returned_numbers(client: Client, pixels: np.ndarray) -> None:
    q = arrays(ask(client, pixels, quantities=ALL))
    assert q["eigenvalue"] == pytest.approx(1 - q["beta"] * q["k_norm"] ** 2, abs=1e-5)
    assert q["e_post"] == pytest.approx(q["eigenvalue"][..., None] * q["e_pre"], rel=1e-4, abs=1e-5)
    assert q["update_norm"] == pytest.approx(q["beta"] * q["k_norm"] * q["e_pre_norm"], rel=1e-4)
    assert q["k_norm"] == pytest.approx(q["k_raw_norm"] / np.hypot(q["k_raw_norm"], EPS), rel=1e-5)
    assert q["beta"] == pytest.approx(2 / (1 + np.exp(-q["beta_logit"])), rel=1e-4, abs=1e-6)


def test_values_are_those_of_the_graph_bit_by_bit(client: Client, pixels: np.ndarray) -> None:
    answer = arrays(ask(client, pixels, quantities=["beta", "v"]))
    session = client.state.repository.get("tiny").session
    outputs = session.run({"pixels": pixels}, list(output_shapes()))
    for name in ("beta", "v"):
        exact = np.stack([outputs[f"{site}/{name}"][0] for site in SITES])
        assert np.array_equal(answer[name].astype(np.float32), exact)


def test_the_prediction_of_the_same_run_comes_along(client: Client, maker: BundleMaker, pixels: np.ndarray) -> None:
    top = ask(client, pixels)["results"][0]["prediction"]["top"]
    expected = reference(maker.weights, pixels)["probabilities"][0]
    assert [p["index"] for p in top] == np.argsort(-expected).tolist()
    assert [p["label"] for p in top] == [LABELS[p["index"]] for p in top]
    assert [p["probability"] for p in top] == pytest.approx(np.sort(expected)[::-1], rel=1e-3, abs=1e-5)


def test_each_row_is_a_result_of_its_own(client: Client, maker: BundleMaker) -> None:
    pixels = np.random.default_rng(2).standard_normal((3, 1, HEIGHT, WIDTH)).astype(np.float32)
    answer = ask(client, pixels, quantities=["beta", "e_post"])
    assert len(answer["results"]) == 3
    for row in range(3):
        alone = arrays(ask(client, pixels[row : row + 1], quantities=["beta", "e_post"]))
        expected = expected_quantities(maker, pixels, row)
        for name, values in arrays(answer, row).items():
            assert values == pytest.approx(alone[name], rel=1e-4, abs=1e-5)
            assert values == pytest.approx(expected[name], rel=2e-3, abs=1e-4)


def test_an_image_is_the_tensor_that_it_makes(client: Client) -> None:
    grey = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    grey[[0, -1]] = 0
    grey[:, [0, -1]] = 0
    tensor = ((grey / np.float32(255) - np.float32(0.25)) / np.float32(0.5)).astype(np.float32)[None, None]
    by_tensor = ask(client, tensor)
    by_base64 = client.post(GATES, json={"inputs": {"image": b64(png(grey))}}).json()
    raw = client.post(GATES, content=png(grey), headers={"content-type": "image/png"}).json()
    assert by_tensor["results"] == by_base64["results"] == raw["results"]
    assert list(raw["results"][0]["tensors"]) == ["beta"]
    bright = client.post(GATES, content=png(255 - grey), headers={"content-type": "image/png"}).json()
    assert bright["results"] == raw["results"]
    assert "was inverted" in bright["warnings"][0]


def test_the_default_is_the_preset_core(client: Client, pixels: np.ndarray) -> None:
    default = ask(client, pixels)["results"]
    assert default == ask(client, pixels, quantities="core")["results"]
    assert default == ask(client, pixels, quantities=["beta"])["results"]
    assert default == ask(client, pixels, quantities=["core", "beta"])["results"]


def test_quantities_come_in_the_order_asked_for(client: Client, pixels: np.ndarray) -> None:
    answer = ask(client, pixels, quantities=["v", "beta", "v"])
    assert list(answer["results"][0]["tensors"]) == ["v", "beta"]


@pytest.mark.parametrize(
    ("select", "sites", "positions"),
    [
        ({}, [0, 1], range(6)),
        ({"layers": "all", "positions": "all"}, [0, 1], range(6)),
        ({"layers": [0]}, [0, 1], range(6)),
        ({"layers": [-1]}, [0, 1], range(6)),
        ({"layers": "0:1"}, [0, 1], range(6)),
        ({"layers": "-1:"}, [0, 1], range(6)),
        ({"layers": ":"}, [0, 1], range(6)),
        ({"sublayers": ["mlp"]}, [1], range(6)),
        ({"sublayers": ["mlp", "attn"]}, [0, 1], range(6)),
        ({"positions": [4]}, [0, 1], [4]),
        ({"positions": [-1, 0]}, [0, 1], [5, 0]),
        ({"positions": {"from": 2}}, [0, 1], [2, 3, 4, 5]),
        ({"positions": {"from": -2, "to": None}}, [0, 1], [4, 5]),
        ({"positions": {"from": -512, "to": None, "stride": 1}}, [0, 1], range(6)),
        ({"positions": {"to": -1, "stride": 2}}, [0, 1], [0, 2, 4]),
        ({"positions": {"from": 1, "to": 5, "stride": 3}, "sublayers": ["attn"]}, [0], [1, 4]),
    ],
)
def test_a_selection_gives_the_cells_of_the_full_trace(
    client: Client, pixels: np.ndarray, select: dict[str, Any], sites: list[int], positions: list[int]
) -> None:
    full = arrays(ask(client, pixels, quantities=["beta", "e_pre"]))
    answer = ask(client, pixels, quantities=["beta", "e_pre"], select=select)
    assert [site["index"] for site in answer["sites"]] == sites
    assert answer["results"][0]["positions"] == list(positions)
    for name, values in arrays(answer).items():
        assert np.array_equal(values, full[name][sites][:, list(positions)]), name


@pytest.mark.parametrize(
    "select",
    [
        {"layers": [1]},
        {"layers": [-2]},
        {"layers": []},
        {"layers": "1:"},
        {"layers": "0:2"},
        {"layers": "-2:"},
        {"layers": "0:0"},
        {"positions": [6]},
        {"positions": [-7]},
        {"positions": []},
        {"positions": {"from": 6}},
        {"positions": {"from": 3, "to": 3}},
    ],
)
def test_a_selection_beyond_the_model_is_422_and_not_clamped(
    client: Client, pixels: np.ndarray, select: dict[str, Any]
) -> None:
    response = client.post(GATES, json={"inputs": tensor_input(pixels), "select": select})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:ddl:problem:bad-selection"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"reduction": []}, "reduction"),
        ({"reduce": []}, "reduce"),
        ({"reduce": [{"op": "median"}]}, "reduce.0.op"),
        ({"interventions": [{"op": "run"}]}, "interventions.0.op"),
        ({"interventions": [{"op": "set"}]}, "interventions.0"),
        ({"lens": {"top_k": 0}}, "lens.top_k"),
        ({"output": {"format": "npz"}}, "output.format"),
        ({"select": {"sites": ["0.attn"]}}, "select.sites"),
        ({"select": {"layers": "1"}}, "select.layers"),
        ({"select": {"layers": "a:b"}}, "select.layers"),
        ({"select": {"layers": [0.5]}}, "select.layers"),
        ({"select": {"layers": [True]}}, "select.layers"),
        ({"select": {"layers": {"from": 0}}}, "select.layers"),
        ({"select": {"sublayers": ["ffn"]}}, "select.sublayers.0"),
        ({"select": {"sublayers": []}}, "select.sublayers"),
        ({"select": {"positions": "last"}}, "select.positions"),
        ({"select": {"positions": {"stride": 0}}}, "select.positions"),
        ({"select": {"positions": {"start": 0}}}, "select.positions"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": {"image": "AA==", "tensor": {"shape": [1], "data": []}}}, "inputs"),
        ({"inputs": {"tensor": {"dtype": "f64", "shape": [1], "data": []}}}, "inputs.tensor.dtype"),
        ({"quantities": 5}, "quantities.str"),
        ({"version": 1}, "version"),
    ],
)
def test_a_field_that_is_unknown_or_wrong_is_422(
    client: Client, pixels: np.ndarray, fields: dict[str, Any], field: str
) -> None:
    response = client.post(GATES, json={"inputs": tensor_input(pixels), **fields})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:ddl:problem:invalid-fields"
    assert response.json()["errors"][0]["field"] == field
    if field in ("reduction", "select.sites"):
        assert response.json()["errors"][0]["message"] == "unknown field"


def test_no_quantity_at_all_is_422(client: Client, pixels: np.ndarray) -> None:
    response = client.post(GATES, json={"inputs": tensor_input(pixels), "quantities": []})
    assert response.status_code == 422


def test_a_text_is_nothing_for_a_classifier(client: Client) -> None:
    response = client.post(GATES, json={"inputs": {"prompt": "hello"}})
    assert (response.status_code, response.json()["type"]) == (422, "urn:ddl:problem:task-mismatch")


@pytest.mark.parametrize("asked", ["alpha", ["beta", "alpha"], ["cells"]])
def test_an_unknown_quantity_is_422_with_the_known_names(client: Client, pixels: np.ndarray, asked: Any) -> None:
    response = client.post(GATES, json={"inputs": tensor_input(pixels), "quantities": asked})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:ddl:problem:unknown-quantity"
    assert response.json()["known"] == [*QUANTITIES, *PRESETS]


def test_the_version_is_honoured(client: Client, pixels: np.ndarray) -> None:
    assert ask(client, pixels, version="1")["version"] == "1"
    response = client.post(GATES, json={"inputs": tensor_input(pixels), "version": "2"})
    assert response.status_code == 404
    assert response.json()["known"] == ["1"]
    assert client.post("/v1/models/nix/gates", json={}).status_code == 404


@pytest.mark.parametrize(
    ("tensor", "status"),
    [
        ({"shape": [1, 1, 8, 13], "data": [0.0] * 96}, 422),
        ({"shape": [1, 1, 8, 12], "data": [0.0] * 95}, 422),
        ({"shape": [1, 1, 8, 12], "data": ["0"] * 96}, 422),
        ({"shape": [1, 1, 8, 12], "data": [1e39] * 96}, 422),
        ({"shape": [2**40, 1, 8, 12], "data": []}, 422),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(client: Client, tensor: dict[str, Any], status: int) -> None:
    assert client.post(GATES, json={"inputs": {"tensor": tensor}}).status_code == status


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x"])
def test_other_media_are_415(client: Client, content_type: str) -> None:
    assert client.post(GATES, content=b"x", headers={"content-type": content_type}).status_code == 415


def test_a_damaged_image_is_400(client: Client) -> None:
    assert client.post(GATES, content=b"x", headers={"content-type": "image/png"}).status_code == 400
    assert client.post(GATES, json={"inputs": {"image": "AAAA"}}).status_code == 400


class NoRun:
    """A session that must not be run."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        if name == "run":
            raise AssertionError("the model was run")
        return getattr(self._session, name)


@pytest.mark.parametrize(
    ("limit", "quantities", "select", "rows"),
    [
        (11, ["beta"], {}, 1),
        (30, ["beta", "v", "eigenvalue"], {}, 1),
        (11, ["beta"], {"positions": {"from": 0, "stride": 2}}, 2),
        (11, ["beta"], {"positions": [5, 4, 3, 2, 1, 0]}, 1),
        (7, ["beta", "beta_logit"], {"sublayers": ["mlp"]}, 1),
        (1, ["v"], {}, 1),
    ],
)
def test_a_result_too_large_is_refused_before_the_run_with_patches_that_fit(
    serve: Any, limit: int, quantities: list[str], select: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(json_cells=limit)
    pixels = np.zeros((rows, 1, HEIGHT, WIDTH), np.float32)
    body = {"inputs": tensor_input(pixels), "quantities": quantities, "select": select}
    loaded = client.state.repository.get("tiny")
    session = loaded.session
    loaded.session = NoRun(session)
    response = client.post(GATES, json=body)
    assert response.status_code == 413
    problem = response.json()
    assert problem["type"] == "urn:ddl:problem:result-too-large"
    assert problem["cells"] > problem["limit_cells"] == limit
    assert problem["bytes_estimate"] > problem["cells"]
    loaded.session = session
    full = serve().post(GATES, json=body).json()
    assert problem["cells"] == sum(np.size(t["data"]) for result in full["results"] for t in result["tensors"].values())
    assert len(problem["try"]) >= (2 if limit > 1 else 1)
    for patch in problem["try"]:
        patched = client.post(GATES, json={**body, **patch})
        assert patched.status_code == 200, (patch, patched.text)


def test_what_is_not_finite_is_null_counted_warned_and_measured(client: Client) -> None:
    loud = np.full((1, 1, HEIGHT, WIDTH), 3e38, np.float32)
    before = nonfinite_total(client)
    answer = ask(client, loud, quantities=ALL)
    counted = 0
    for tensor in answer["results"][0]["tensors"].values():
        flat = json.dumps(tensor["data"])
        assert flat.count("null") == tensor["nonfinite"]
        counted += tensor["nonfinite"]
    assert counted > 0
    assert f"{counted} values are not finite" in answer["warnings"][0]
    assert nonfinite_total(client) == before + counted


def nonfinite_total(client: Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    values = [line.rpartition(" ")[2] for line in lines if line.startswith("ddl_gate_nonfinite_total{")]
    return float(values[0]) if values else 0.0


def test_meta_describes_what_can_be_asked(client: Client) -> None:
    meta = client.get("/v1/models/tiny/gates/meta").json()
    assert meta["positions"] == {"kind": "patch", "grid": list(GRID), "count": TOKENS}
    assert meta["presets"] == {
        "core": ["beta"],
        "audit": ["beta", "e_pre_norm", "e_post_norm", "balance"],
        "page": ["beta", "eigenvalue", "e_pre_norm", "e_post_norm", "erase_norm", "write_norm"],
        "path": [],
    }
    assert meta["value_map"] == {"kind": "sigmoid", "scale": 4.0, "input": "x_in"}
    assert (meta["value_channels"], meta["direction_eps"]) == (DV, EPS)
    assert meta["limits"] == {
        "json_cells": 200_000,
        "binary_cells": 8_000_000,
        "max_positions": 4096,
        "max_batch": 8,
        "max_variants": 64,
    }
    assert [q["name"] for q in meta["quantities"]] == list(QUANTITIES)
    assert [q["name"] for q in meta["quantities"] if q["available"]] == ALL
    assert all((q["reason"] is None) == q["available"] for q in meta["quantities"])
    assert meta["interventions"]["available"] is False
    assert client.get("/v1/models/tiny/gates/meta?version=2").status_code == 404
    assert client.get("/v1/models/nix/gates/meta").status_code == 404


def test_without_gate_outputs_gates_are_501_and_predictions_work(serve: Any, tmp_path: Any, maker: BundleMaker) -> None:
    maker.write(tmp_path, manifest=lambda m: m.update(gates=None))
    client = serve(repository=tmp_path)
    zeros = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
    for response in (
        client.post(GATES, json={"inputs": tensor_input(zeros)}),
        client.get("/v1/models/tiny/gates/meta"),
    ):
        assert response.status_code == 501
        assert response.json()["type"] == "urn:ddl:problem:capture-unavailable"
    assert client.post("/v1/models/tiny/classify", json={"pixels": [[0] * WIDTH] * HEIGHT}).status_code == 200


def test_a_quantity_whose_outputs_are_missing_is_501(serve: Any, tmp_path: Any, maker: BundleMaker) -> None:
    def drop_target(manifest: dict[str, Any]) -> None:
        del manifest["gates"]["outputs"]["v"]

    maker.write(tmp_path, manifest=drop_target)
    client = serve(repository=tmp_path)
    zeros = tensor_input(np.zeros((1, 1, HEIGHT, WIDTH), np.float32))
    assert client.post(GATES, json={"inputs": zeros, "quantities": ["eigenvalue", "erase_norm"]}).status_code == 200
    response = client.post(GATES, json={"inputs": zeros, "quantities": ["write_norm"]})
    assert response.status_code == 501
    assert "needs v" in response.json()["detail"]
    meta = client.get("/v1/models/tiny/gates/meta").json()
    missing = {q["name"] for q in meta["quantities"] if not q["available"]} & set(ALL)
    assert missing == {name for name in ALL if "v" in QUANTITIES[name].needs}


def test_under_the_additive_rule_what_is_not_defined_is_absent(serve: Any, tmp_path: Any, maker: BundleMaker) -> None:
    maker.write(tmp_path, manifest=lambda m: m["gates"].update(update_rule="additive"))
    client = serve(repository=tmp_path)
    meta = client.get("/v1/models/tiny/gates/meta").json()
    assert {q["name"] for q in meta["quantities"] if q["available"]} == {"k_raw_norm"}
    zeros = tensor_input(np.zeros((1, 1, HEIGHT, WIDTH), np.float32))
    response = client.post(GATES, json={"inputs": zeros, "quantities": ["eigenvalue"]})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:ddl:problem:quantity-not-defined"
    assert client.post(GATES, json={"inputs": zeros, "quantities": ["k_raw_norm"]}).status_code == 200


def test_a_graph_with_other_positions_than_promised_is_an_error_and_not_a_wrong_answer(client: Client) -> None:
    model = client.state.repository.get("tiny")

    class Short:
        def run(self, feeds: Any, names: list[str], **options: Any) -> dict[str, np.ndarray]:
            return {name: value[:, :5] for name, value in model.session.run(feeds, names).items()}

    feed = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
    with pytest.raises(ModelFailed, match="has 5 positions, the manifest promises 6"):
        run(Subject(model.bundle, Short()), Input(feed, TOKENS), ["v"], states=False)  # type: ignore[arg-type]


near_select = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.sampled_from(["all", "0:", "9:", ":-1"]) | st.lists(st.integers(-3, 3), max_size=3) | anything,
        "sublayers": st.lists(st.sampled_from(["attn", "mlp"])) | anything,
        "positions": st.fixed_dictionaries(
            {}, optional={k: st.integers(-9, 9) | st.none() for k in ("from", "to", "stride")}
        )
        | st.lists(st.integers(-9, 9), max_size=4)
        | anything,
    },
)
near_gates = st.fixed_dictionaries(
    {"inputs": st.just({"tensor": {"shape": [1, 1, HEIGHT, WIDTH], "data": [0.5] * (HEIGHT * WIDTH)}}) | anything},
    optional={
        "select": near_select | anything,
        "quantities": st.lists(st.sampled_from([*ALL, "core", "alpha"]), max_size=3) | anything,
        "version": st.sampled_from(["1", "2"]) | anything,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=near_gates)
def test_no_json_makes_the_service_fail(client: Client, body: Any) -> None:
    response = client.post(GATES, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404, 413, 422)
