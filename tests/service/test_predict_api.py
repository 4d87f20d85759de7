import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import __version__
from tests.service.conftest import Blocker, BusyModel, Client, until
from tests.service.tiny_bundle import HEIGHT, LABELS, SITES, WIDTH, BundleMaker, output_shapes, reference

INFER = "/v2/models/tiny/infer"


def infer_body(pixels: np.ndarray, **changes: Any) -> dict[str, Any]:
    tensor = {
        "name": "pixels",
        "shape": list(pixels.shape),
        "datatype": "FP32",
        "data": pixels.ravel().tolist(),
        **changes,
    }
    return {"inputs": [tensor]}


def test_server_metadata(client: Client) -> None:
    assert client.get("/v2").json() == {
        "name": "deep-delta-serving",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "classification",
            "logging",
            "model_configuration",
            "model_repository",
            "schedule_policy",
            "statistics",
        ],
    }
    assert client.request("GET", "/v2/", follow_redirects=True).status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/1"])
def test_model_metadata(client: Client, path: str) -> None:
    metadata = client.get(path).json()
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("tiny", ["1"], "onnxruntime_onnx")
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, HEIGHT, WIDTH]}]
    assert {o["name"]: o["shape"][1:] for o in metadata["outputs"]} == {
        name: list(shape) for name, shape in output_shapes().items()
    }


@pytest.mark.parametrize("path", ["/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"])
def test_model_ready(client: Client, path: str) -> None:
    assert client.get(path).json() == {"name": "tiny", "ready": True}


@pytest.mark.parametrize("tail", ["", "/ready", "/infer"])
@pytest.mark.parametrize(("model", "slug"), [("nix", "unknown-model"), ("tiny/versions/7", "unknown-version")])
def test_what_is_unknown_is_404(client: Client, model: str, slug: str, tail: str) -> None:
    response = client.request("POST" if tail == "/infer" else "GET", f"/v2/models/{model}{tail}")
    assert response.status_code == 404
    assert response.json()["type"] == f"urn:ddl:problem:{slug}"
    assert response.json()["error"] == response.json()["detail"]


@pytest.mark.parametrize("path", [INFER, "/v2/models/tiny/versions/1/infer"])
@pytest.mark.parametrize("rows", [1, 4])
def test_infer_gives_the_numbers_of_the_independent_network(
    client: Client, maker: BundleMaker, path: str, rows: int
) -> None:
    pixels = np.random.default_rng(rows).standard_normal((rows, 1, HEIGHT, WIDTH)).astype(np.float32)
    expected = reference(maker.weights, pixels)
    answer = client.post(path, json={**infer_body(pixels), "id": "mine"}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "mine")
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "logits"]
    for output in answer["outputs"]:
        assert output["shape"] == [rows, len(LABELS)]
        assert output["datatype"] == "FP32"
        assert output["data"] == pytest.approx(expected[output["name"]].ravel(), rel=1e-4, abs=1e-4)


def test_nested_and_flat_data_are_the_same(client: Client, pixels: np.ndarray) -> None:
    flat = client.post(INFER, json=infer_body(pixels)).json()
    nested = client.post(INFER, json=infer_body(pixels, data=pixels.tolist())).json()
    assert flat == nested
    assert "id" not in flat


def test_float32_survives_the_way_bit_by_bit(client: Client, pixels: np.ndarray) -> None:
    body = {**infer_body(pixels), "outputs": [{"name": "logits"}]}
    data = client.post(INFER, json=body).json()["outputs"][0]["data"]
    session = client.state.repository.get("tiny").session
    exact = session.run({"pixels": pixels}, ["logits"])["logits"].ravel()
    assert np.array_equal(np.array(data, np.float64).astype(np.float32), exact)


def test_gate_outputs_come_only_when_asked_for_by_name(client: Client, maker: BundleMaker, pixels: np.ndarray) -> None:
    expected = reference(maker.weights, pixels)
    names = [f"{SITES[1]}/v", "probabilities", f"{SITES[0]}/beta"]
    answer = client.post(INFER, json={**infer_body(pixels), "outputs": [{"name": n} for n in names]}).json()
    assert [output["name"] for output in answer["outputs"]] == names
    assert answer["outputs"][0]["shape"] == [1, 6, 2]
    for output in answer["outputs"]:
        assert output["data"] == pytest.approx(expected[output["name"]].ravel(), rel=1e-3, abs=1e-4)


def test_parameters_are_taken_and_passed_over(client: Client, pixels: np.ndarray) -> None:
    body = infer_body(pixels, parameters={"binary_data": False})
    body["parameters"] = {"priority": 1}
    assert client.post(INFER, json=body).status_code == 200


VALID = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
N = HEIGHT * WIDTH


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"name": "image"}, "no input 'image'; known: pixels"),
        ({"datatype": "FP64"}, "is FP32, not 'FP64'"),
        ({"datatype": "INT64"}, "is FP32, not 'INT64'"),
        ({"shape": [1, HEIGHT, WIDTH]}, "has shape [-1, 1, 8, 12]"),
        ({"shape": [1, 1, WIDTH, HEIGHT]}, "got [1, 1, 12, 8]"),
        ({"shape": [0, 1, HEIGHT, WIDTH], "data": []}, "-1 is any length from 1"),
        ({"shape": [-1, 1, HEIGHT, WIDTH]}, "got [-1, 1, 8, 12]"),
        ({"shape": [2, 1, HEIGHT, WIDTH]}, "has 96 numbers, shape [2, 1, 8, 12] needs 192"),
        ({"data": [0.0] * (N - 1)}, "has 95 numbers"),
        ({"data": []}, "has 0 numbers"),
        ({"data": [0.0] * (N - 1) + ["1"]}, "element 95 is a string"),
        ({"data": [True] + [0.0] * (N - 1)}, "element 0 is a boolean"),
        ({"data": [None] * N}, "element 0 is null"),
        ({"data": [{}] * N}, "element 0 is an object"),
        ({"data": [1e39] + [0] * (N - 1)}, "element 0 is not finite as FP32"),
        ({"data": [0] * (N - 1) + [-1e300]}, "element 95 is not finite"),
        ({"data": [10**30] + [10**40] * (N - 1)}, "element 1 is not finite"),
        ({"data": np.zeros((1, HEIGHT, WIDTH)).tolist()}, "axis 1 of the data needs 1 elements, one part has 8"),
        ({"data": np.zeros((1, 1, HEIGHT, WIDTH, 1)).tolist()}, "element 0 is a list"),
        ({"data": [[[[0.0] * WIDTH] * (HEIGHT - 1) + [[0.0] * (WIDTH - 1)]]]}, "axis 3"),
        ({"data": [[[[0.0] * WIDTH] * (HEIGHT - 1) + [0.0]]]}, "one part has a fraction"),
        ({"data": [[[0.0] * N]]}, "axis 2"),
    ],
)
def test_a_tensor_that_does_not_fit_is_400(client: Client, changes: dict[str, Any], detail: str) -> None:
    response = client.post(
        INFER, content=json.dumps(infer_body(VALID, **changes)), headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["type"] == "urn:ddl:problem:invalid-tensor"
    assert detail in response.json()["detail"]


@pytest.mark.parametrize("shape", [[2**40, 1, HEIGHT, WIDTH], [2**62, 2**62, 2**62, 2**62], [257, 1, 8, 12]])
def test_a_shape_whose_product_would_overflow_is_refused(client: Client, shape: list[int]) -> None:
    assert client.post(INFER, json=infer_body(VALID, shape=shape)).status_code == 400


def without(key: str) -> dict[str, Any]:
    body = infer_body(VALID)
    del body["inputs"][0][key]
    return body


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ("text", "body"),
        ({}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [7]}, "inputs.0"),
        (without("name"), "inputs.0.name"),
        (without("shape"), "inputs.0.shape"),
        (without("datatype"), "inputs.0.datatype"),
        (without("data"), "inputs.0.data"),
        (infer_body(VALID, data=1.5), "inputs.0.data"),
        (infer_body(VALID, data="AAAA"), "inputs.0.data"),
        (infer_body(VALID, shape=[]), "inputs.0.shape"),
        (infer_body(VALID, shape=[1.0, 1, 8, 12]), "inputs.0.shape.0"),
        (infer_body(VALID, shape=["1", 1, 8, 12]), "inputs.0.shape.0"),
        (infer_body(VALID, shape=[True, 1, 8, 12]), "inputs.0.shape.0"),
        (infer_body(VALID, dtype="FP32"), "inputs.0.dtype"),
        (infer_body(VALID, parameters={"a": []}), "inputs.0.parameters.a"),
        ({**infer_body(VALID), "ouputs": []}, "ouputs"),
        ({**infer_body(VALID), "outputs": []}, "outputs"),
        ({**infer_body(VALID), "id": 5}, "id"),
    ],
)
def test_a_field_that_is_missing_unknown_or_wrong_is_400(client: Client, body: Any, field: str) -> None:
    response = client.post(INFER, json=body)
    assert response.status_code == 400
    problem = response.json()
    assert problem["type"] == "urn:ddl:problem:invalid-fields"
    assert problem["errors"][0]["field"] == field
    assert field in problem["detail"]


def test_an_input_that_is_missing_or_given_twice_is_400(client: Client) -> None:
    assert "'pixels' is missing" in client.post(INFER, json={"inputs": []}).json()["detail"]
    twice = {"inputs": infer_body(VALID)["inputs"] * 2}
    response = client.post(INFER, json=twice)
    assert response.status_code == 400
    assert "given twice" in response.json()["detail"]


def test_an_unknown_output_is_400_with_the_known_ones(client: Client) -> None:
    response = client.post(INFER, json={**infer_body(VALID), "outputs": [{"name": "scores"}]})
    assert response.status_code == 400
    assert "probabilities" in response.json()["known"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        json.dumps(infer_body(VALID)).encode() + b"}",
        json.dumps(infer_body(np.full_like(VALID, np.nan))).encode(),
        json.dumps(infer_body(np.full_like(VALID, np.inf))).encode(),
        json.dumps(infer_body(np.full_like(VALID, -np.inf))).encode(),
        json.dumps(infer_body(VALID)).encode().replace(b"0.0", b"1e999", 1),
    ],
)
def test_what_is_no_json_is_400(client: Client, content: bytes) -> None:
    response = client.post(INFER, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["type"] == "urn:ddl:problem:invalid-request"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "application/vnd.oip+json"}, 200),
        ({"content-type": "application/octet-stream"}, 200),
        ({"content-type": "application/x-www-form-urlencoded"}, 400),
        ({"content-type": "multipart/form-data; boundary=x"}, 400),
        ({"content-type": "application/json", "content-encoding": "br"}, 400),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 400),
        ({"content-type": "application/json", "inference-header-content-length": "99"}, 400),
    ],
)
def test_media_types(client: Client, headers: dict[str, str], status: int) -> None:
    response = client.post(INFER, content=json.dumps(infer_body(VALID)), headers=headers)
    assert response.status_code == status


def test_a_body_without_a_type_counts_as_json(client: Client) -> None:
    response = client.post(INFER, content=json.dumps(infer_body(VALID)))
    assert "content-type" not in response.request.headers
    assert response.status_code == 200


def test_the_body_is_never_part_of_an_error(client: Client) -> None:
    secret = "my-secret-value"
    for body in (
        {"inputs": [{"name": "pixels", "shape": secret, "datatype": secret, "data": [secret]}]},
        infer_body(VALID, data=[secret] * N),
        infer_body(VALID, data=secret),
        {"inputs": secret},
        secret,
    ):
        assert secret not in client.post(INFER, json=body).text
    assert secret not in client.post(INFER, content=b'{"a": ' + secret.encode()).text


def test_a_large_wrong_body_gets_a_small_answer(client: Client) -> None:
    response = client.post(INFER, json=infer_body(VALID, data=["x" * 100] * 20_000))
    assert response.status_code == 400
    assert len(response.content) < 1000


def test_an_answer_with_too_many_numbers_is_400(serve: Any, pixels: np.ndarray) -> None:
    small = serve(json_cells=7)
    response = small.post(INFER, json=infer_body(pixels))
    assert response.status_code == 400
    assert (response.json()["cells"], response.json()["limit_cells"]) == (8, 7)
    one = {**infer_body(pixels), "outputs": [{"name": "logits"}]}
    assert small.post(INFER, json=one).status_code == 200


def test_what_is_not_finite_comes_as_null_and_is_counted(client: Client) -> None:
    loud = np.full((1, 1, HEIGHT, WIDTH), 3e38, np.float32)
    response = client.post(INFER, json={**infer_body(loud), "outputs": [{"name": "logits"}]})
    (output,) = response.json()["outputs"]
    nulls = output["data"].count(None)
    assert nulls > 0
    assert output["parameters"] == {"nonfinite": nulls}


def test_a_full_queue_is_503_with_retry_after(serve: Any, pixels: np.ndarray) -> None:
    client = serve(queue_limit=0)

    async def scenario() -> Any:
        async with BusyModel(client):
            return await client.arequest("POST", INFER, json=infer_body(pixels))

    response = client.run(scenario())
    assert response.status_code == 503
    assert response.json()["type"] == "urn:ddl:problem:overloaded"
    assert int(response.headers["retry-after"]) >= 1
    assert client.post(INFER, json=infer_body(pixels)).status_code == 200


def test_a_deadline_that_passes_in_the_queue_is_504(serve: Any, pixels: np.ndarray) -> None:
    client = serve()

    async def scenario() -> Any:
        async with BusyModel(client):
            body = {**infer_body(pixels), "parameters": {"timeout": 20_000}}
            return await client.arequest("POST", INFER, json=body)

    response = client.run(scenario())
    assert response.status_code == 504
    assert response.json()["type"] == "urn:ddl:problem:deadline-passed"


def test_other_requests_are_answered_while_the_workers_are_busy(serve: Any) -> None:
    client = serve(workers=1)

    async def scenario() -> Any:
        async with Blocker(client):
            return await client.arequest("GET", "/metrics")

    assert "ddl_runs_in_flight 1.0" in client.run(scenario()).text


def test_waiting_work_of_a_vanished_client_is_dropped(serve: Any, pixels: np.ndarray) -> None:
    client = serve()
    sent: list[dict[str, Any]] = []
    body = json.dumps(infer_body(pixels)).encode()

    async def scenario() -> int:
        hung_up = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": INFER,
            "raw_path": INFER.encode(),
            "query_string": b"",
            "headers": [],
            "http_version": "1.1",
        }
        async with BusyModel(client) as batcher:
            task = asyncio.create_task(client.app(scope, receive, send))  # type: ignore[arg-type]
            await until(lambda: batcher.waiting == 1)
            hung_up.set()
            await task
            return batcher.waiting

    assert client.run(scenario()) == 0
    assert sent[0]["status"] == 499
    assert 'status="499"' in client.get("/metrics").text


def test_parallel_requests_get_their_own_answers(client: Client, maker: BundleMaker) -> None:
    inputs = [np.random.default_rng(i).standard_normal((1, 1, HEIGHT, WIDTH)).astype(np.float32) for i in range(24)]

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(client.arequest("POST", INFER, json=infer_body(x)) for x in inputs))

    for pixels, response in zip(inputs, client.run(scenario()), strict=True):
        expected = reference(maker.weights, pixels)["probabilities"].ravel()
        assert response.json()["outputs"][0]["data"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
near_tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["pixels", "", "0.attn/beta"]) | anything,
        "shape": st.lists(st.sampled_from([0, 1, -1, 2, 8, 12, 2**63, 2**200, True, None]), max_size=6) | anything,
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES", "BOOL"]) | anything,
        "data": st.lists(st.sampled_from([0, 1.5, -0.0, 1e39, True, None, "x", []]), max_size=100)
        | st.just([0.5] * N)
        | anything,
        "parameters": anything,
    },
)
near_request = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(near_tensor, max_size=2) | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["logits", "x"]) | anything})) | anything,
        "id": anything,
        "parameters": anything,
    },
)
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(body=near_request | anything)
def test_no_json_makes_the_service_fail(client: Client, body: Any) -> None:
    response = client.post(INFER, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)


@fuzz
@given(content=st.binary(max_size=200))
def test_no_bytes_make_the_service_fail(client: Client, content: bytes) -> None:
    response = client.post(INFER, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
