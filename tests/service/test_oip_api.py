"""The Open Inference Protocol beside plain JSON inference: binary tensors, compression, classes, what models are."""

import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.conftest import Client
from tests.service.protocol.requests import binary_tensor, body_of, read_answer, tensor
from tests.service.test_predict_api import INFER, infer_body
from tests.service.tiny_bundle import HEIGHT, LABELS, WIDTH, BundleMaker, reference

LENGTH = "Inference-Header-Content-Length"
ROW_BYTES = HEIGHT * WIDTH * 4


def post_binary(client: Client, request: Any, *arrays: np.ndarray, **options: Any) -> httpx.Response:
    body, length = body_of(request, *arrays)
    headers = {"content-type": "application/octet-stream", LENGTH: str(length), **options.pop("headers", {})}
    return client.post(INFER, content=body, headers=headers, **options)


def answer_of(response: httpx.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    assert response.status_code == 200, response.text
    length = response.headers.get(LENGTH)
    return read_answer(response.content, None if length is None else int(length))


@pytest.mark.parametrize("rows", [1, 3])
def test_binary_tensors_both_ways(client: Client, maker: BundleMaker, rows: int) -> None:
    pixels = np.random.default_rng(rows).standard_normal((rows, 1, HEIGHT, WIDTH)).astype(np.float32)
    request = {"inputs": [binary_tensor("pixels", pixels, "FP32")], "parameters": {"binary_data_output": True}}
    response = post_binary(client, request, pixels)
    answer, found = answer_of(response)
    assert response.headers["content-type"] == "application/octet-stream"
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "logits"]
    assert all("data" not in output for output in answer["outputs"])
    assert found["logits"] == pytest.approx(reference(maker.weights, pixels)["logits"], rel=1e-3, abs=1e-4)


def test_binary_in_json_out_and_the_other_way_round(client: Client, pixels: np.ndarray) -> None:
    _, mixed = answer_of(post_binary(client, {"inputs": [binary_tensor("pixels", pixels, "FP32")]}, pixels))
    plain = client.post(INFER, json={**infer_body(pixels), "parameters": {"binary_data_output": True}})
    _, binary = answer_of(plain)
    assert np.float32(mixed["logits"]).tobytes() == binary["logits"].tobytes()


def test_outputs_of_both_kinds_in_one_answer(client: Client, pixels: np.ndarray) -> None:
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    answer, found = answer_of(client.post(INFER, json={**infer_body(pixels), "outputs": outputs}))
    assert found["logits"].shape == (1, len(LABELS))
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert ["data" in output for output in answer["outputs"]] == [False, True]


def test_the_bytes_of_the_only_input_alone(client: Client, pixels: np.ndarray) -> None:
    two = np.concatenate([pixels, pixels + 1])
    headers = {LENGTH: "0", "content-type": "application/octet-stream"}
    _, found = answer_of(client.post(INFER, content=two.tobytes(), headers=headers))
    _, expected = answer_of(client.post(INFER, json=infer_body(two)))
    assert found["logits"].ravel() == pytest.approx(expected["logits"])
    response = client.post(INFER, content=two.tobytes()[:-1], headers=headers)
    assert response.status_code == 400
    assert f"a multiple of {ROW_BYTES} bytes" in response.json()["detail"]


@pytest.mark.parametrize("length", ["-1", "1e2", "99999", "", "5"])
def test_a_length_that_contradicts_the_body_is_400(client: Client, pixels: np.ndarray, length: str) -> None:
    request = {"inputs": [binary_tensor("pixels", pixels, "FP32")]}
    response = post_binary(client, request, pixels, headers={LENGTH: length})
    assert response.status_code == 400
    assert response.json()["type"] == "urn:ddl:problem:invalid-request"


def test_nan_goes_in_and_out_as_binary_data_and_out_as_null(client: Client, pixels: np.ndarray) -> None:
    pixels[:] = np.nan
    request: dict[str, Any] = {"inputs": [binary_tensor("pixels", pixels, "FP32")], "outputs": [{"name": "logits"}]}
    response = post_binary(client, request, pixels)
    assert json.loads(response.content, parse_constant=pytest.fail)["outputs"][0]["data"] == [None] * len(LABELS)
    assert response.json()["outputs"][0]["parameters"] == {"nonfinite": len(LABELS)}
    request["outputs"][0]["parameters"] = {"binary_data": True}
    _, found = answer_of(post_binary(client, request, pixels))
    assert np.isnan(found["logits"]).all()


def test_a_large_binary_body_and_a_large_answer(client: Client) -> None:
    pixels = np.random.default_rng(0).standard_normal((256, 1, HEIGHT, WIDTH)).astype(np.float32)
    request = {"inputs": [binary_tensor("pixels", pixels, "FP32")], "outputs": [{"name": "0.attn/v"}]}
    _, as_json = answer_of(post_binary(client, request, pixels))
    _, as_bytes = answer_of(post_binary(client, {**request, "parameters": {"binary_data_output": True}}, pixels))
    assert np.float32(as_json["0.attn/v"]).tobytes() == as_bytes["0.attn/v"].tobytes()
    _, from_json = answer_of(client.post(INFER, json={**infer_body(pixels), "outputs": [{"name": "0.attn/v"}]}))
    assert from_json == as_json


def deflate(body: bytes) -> bytes:
    return zlib.compress(body)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", deflate), ("GZIP", gzip.compress)])
def test_compressed_bodies(client: Client, pixels: np.ndarray, encoding: str, pack: Any) -> None:
    _, expected = answer_of(client.post(INFER, json=infer_body(pixels)))
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    _, found = answer_of(client.post(INFER, content=pack(json.dumps(infer_body(pixels)).encode()), headers=headers))
    assert found == expected
    body, length = body_of({"inputs": [binary_tensor("pixels", pixels, "FP32")]}, pixels)
    headers = {"content-encoding": encoding, LENGTH: str(length)}
    _, found = answer_of(client.post(INFER, content=pack(body), headers=headers))
    assert found == expected


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", deflate)])
def test_a_decompression_bomb_is_refused_at_the_limit_of_a_body(serve: Any, encoding: str, pack: Any) -> None:
    client = serve(max_body_bytes=1_000_000)
    bomb = pack(b" " * 100_000_000)
    assert len(bomb) < 200_000
    response = client.post(INFER, content=bomb, headers={"content-encoding": encoding})
    assert response.status_code == 413
    assert response.json()["limit_bytes"] == 1_000_000


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" + b, lambda b: b + b, lambda b: b""]
)
def test_a_damaged_compressed_body_is_400(client: Client, pixels: np.ndarray, spoil: Any) -> None:
    body = spoil(gzip.compress(json.dumps(infer_body(pixels)).encode()))
    response = client.post(INFER, content=body, headers={"content-encoding": "gzip"})
    assert response.status_code == 400
    assert response.json()["type"] == "urn:ddl:problem:invalid-request"


@pytest.mark.parametrize("binary", [False, True])
def test_classes(client: Client, pixels: np.ndarray, binary: bool) -> None:
    _, plain = answer_of(client.post(INFER, json=infer_body(pixels)))
    wishes = [{"name": name, "parameters": {"classification": 2, "binary_data": binary}} for name in plain]
    answer, found = answer_of(client.post(INFER, json={**infer_body(pixels), "outputs": wishes}))
    for output in answer["outputs"]:
        assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    order = np.argsort(plain["probabilities"])[::-1][:2]
    for text, index in zip(found["probabilities"], order, strict=True):
        value, number, label = text.split(":")
        assert (float(value), int(number), label) == (
            pytest.approx(plain["probabilities"][index]),
            index,
            LABELS[index],
        )
    assert [text.split(":")[1:] for text in found["logits"]] == [text.split(":")[1:] for text in found["probabilities"]]


def test_classes_of_an_output_that_has_none_are_400(client: Client, pixels: np.ndarray) -> None:
    outputs = [{"name": "0.attn/v", "parameters": {"classification": 1}}]
    response = client.post(INFER, json={**infer_body(pixels), "outputs": outputs})
    assert response.status_code == 400
    assert "classes need [rows, classes]" in response.json()["detail"]


def test_sequences_and_shared_memory_are_refused_with_a_reason(client: Client, pixels: np.ndarray) -> None:
    response = client.post(INFER, json={**infer_body(pixels), "parameters": {"sequence_id": 7, "sequence_start": True}})
    assert response.status_code == 400
    assert "keep no state between requests" in response.json()["error"]
    response = client.post(INFER, json=infer_body(pixels, parameters={"shared_memory_region": "r"}))
    assert response.status_code == 400
    assert "memory is not shared" in response.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/tiny/config", "/v2/models/tiny/versions/1/config"])
def test_model_config(client: Client, path: str) -> None:
    config = client.get(path).json()
    assert (config["name"], config["platform"], config["backend"]) == ("tiny", "onnxruntime_onnx", "onnxruntime")
    assert config["max_batch_size"] == client.state.settings.max_rows
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [1, HEIGHT, WIDTH]}]
    assert {"name": "logits", "data_type": "TYPE_FP32", "dims": [len(LABELS)]} in config["output"]
    limits = client.state.repository.get("tiny").batcher.limits
    batching = config["dynamic_batching"]
    assert batching["priority_levels"] == limits.priorities
    assert 1 <= batching["default_priority_level"] <= limits.priorities
    assert batching["default_queue_policy"]["max_queue_size"] == limits.queue_limit
    assert config["instance_group"] == [{"name": "tiny_0", "count": limits.instances, "kind": "KIND_CPU"}]
    assert config["parameters"]["batch_rows"] == {"string_value": str(limits.max_rows)}
    assert config["version_policy"] == {"latest": {"num_versions": 1}}


def test_statistics_count_what_was_done(serve: Any, pixels: np.ndarray) -> None:
    client = serve()
    (before,) = client.get("/v2/models/tiny/stats").json()["model_stats"]
    assert (before["name"], before["version"], before["inference_count"], before["last_inference"]) == (
        "tiny",
        "1",
        0,
        0,
    )
    three = np.concatenate([pixels] * 3)
    for _ in range(2):
        assert client.post(INFER, json=infer_body(three)).status_code == 200
    for path in ("/v2/models/stats", "/v2/models/tiny/stats", "/v2/models/tiny/versions/1/stats"):
        (after,) = client.get(path).json()["model_stats"]
        assert (after["inference_count"], after["execution_count"]) == (6, 2)
        assert after["inference_stats"]["success"]["count"] == 2
        assert after["inference_stats"]["success"]["ns"] >= after["inference_stats"]["compute_infer"]["ns"] > 0
        assert after["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
        assert [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in after["batch_stats"]] == [(3, 2)]
        assert after["last_inference"] > 1_700_000_000_000
    assert client.get("/v2/models/nix/stats").status_code == 404
    assert client.get("/v2/models/tiny/versions/2/stats").status_code == 404


def test_the_header_is_documented(client: Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v2/models/{name}/infer"]["post"]
    assert LENGTH in {parameter["name"] for parameter in operation["parameters"]}
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    assert LENGTH in operation["responses"]["200"]["headers"]


def test_a_body_says_nothing_of_the_model(client: Client, pixels: np.ndarray) -> None:
    body = {**infer_body(pixels), "model_name": "another", "model_version": "9"}
    answer = client.post(INFER, json=body).json()
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "1")
    assert tensor("pixels", pixels, "FP32") == infer_body(pixels)["inputs"][0]
