import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ModelFailed
from service.grpc import inference_pb2 as pb
from tests.service.conftest import BusyModel, until
from tests.service.grpc.client import GrpcClient, infer_request, metadata_of, output_of
from tests.service.tiny_bundle import HEIGHT, LABELS, WIDTH, BundleMaker, reference

CODE = grpc.StatusCode


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_inference(remote: GrpcClient, maker: BundleMaker, raw: bool, rows: int) -> None:
    pixels = np.random.default_rng(rows).standard_normal((rows, 1, HEIGHT, WIDTH)).astype(np.float32)
    response = remote.call("ModelInfer", infer_request(pixels, raw=raw, id="mine"))
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "mine")
    expected = reference(maker.weights, pixels)
    for name in ("probabilities", "logits"):
        assert output_of(response, name) == pytest.approx(expected[name], rel=1e-3, abs=1e-4)


def test_the_same_numbers_as_over_http(remote: GrpcClient, pixels: np.ndarray) -> None:
    headers = {"inference-header-content-length": "0"}
    http = remote.client.post("/v2/models/tiny/infer", content=pixels.tobytes(), headers=headers)
    response = remote.call("ModelInfer", infer_request(pixels))
    assert http.content.endswith(b"".join(response.raw_output_contents))


def test_outputs_and_classes(remote: GrpcClient, pixels: np.ndarray) -> None:
    request = infer_request(pixels, "0.attn/v", "probabilities", model_version="1")
    request.outputs[1].parameters["classification"].int64_param = 2
    response = remote.call("ModelInfer", request)
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("0.attn/v", "FP32", [1, 6, 2]),
        ("probabilities", "BYTES", [1, 2]),
    ]
    length = int.from_bytes(response.raw_output_contents[1][:4], "little")
    assert response.raw_output_contents[1][4 : 4 + length].decode().rpartition(":")[2] in LABELS


def changed(**changes: Any) -> pb.ModelInferRequest:
    pixels = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
    request = infer_request(pixels, raw=changes.pop("raw", True))
    tensor = request.inputs[0]
    for name, value in changes.items():
        if name == "shape":
            tensor.ClearField("shape")
            tensor.shape.extend(value)
        elif name in ("name", "datatype"):
            setattr(tensor, name, value)
        elif name == "parameters":
            request.parameters["x"].CopyFrom(value) if isinstance(value, pb.InferParameter) else [
                request.parameters[key].CopyFrom(inner) for key, inner in value.items()
            ]
        else:
            value(request)
    return request


def integer(value: int) -> pb.InferParameter:
    return pb.InferParameter(int64_param=value)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (changed(name="image"), "no input 'image'; known: pixels"),
        (changed(datatype="FP64"), "is FP32, not 'FP64'"),
        (changed(shape=[1, 1, WIDTH, HEIGHT]), "got [1, 1, 12, 8]"),
        (changed(shape=[2**40, 1, HEIGHT, WIDTH]), "rows, 256 are allowed"),
        (changed(shape=[2**62] * 4), "has shape"),
        (changed(shape=[-1, 1, HEIGHT, WIDTH]), "has shape"),
        (changed(shape=[]), "has shape"),
        (changed(shape=[2, 1, HEIGHT, WIDTH]), "has 384 bytes, FP32 of shape [2, 1, 8, 12] needs 768"),
        (changed(raw=False, shape=[2, 1, HEIGHT, WIDTH]), "has 96 numbers, shape [2, 1, 8, 12] needs 192"),
        (changed(edit=lambda r: r.raw_input_contents.append(b"")), "there are 2 raw_input_contents for 1 inputs"),
        (changed(edit=lambda r: r.inputs[0].contents.fp32_contents.append(1)), "leave one of them out"),
        (changed(raw=False, edit=lambda r: r.inputs[0].contents.int_contents.append(1)), "belongs into fp32_contents"),
        (changed(edit=lambda r: r.inputs.pop() and r.raw_input_contents.pop()), "input 'pixels' is missing"),
        (changed(edit=lambda r: r.MergeFrom(r)), "given twice"),
        (changed(edit=lambda r: r.outputs.add(name="y")), "no output 'y'"),
        (changed(parameters={"priority": integer(-1)}), "parameters.priority"),
        (changed(parameters={"timeout": integer(-1)}), "parameters.timeout"),
        (changed(parameters={"sequence_id": integer(4)}), "keep no state between requests"),
        (changed(edit=lambda r: r.inputs[0].parameters["shared_memory_region"].MergeFrom(integer(1))), "memory is not"),
        (changed(edit=lambda r: setattr(r, "id", "x" * 300)), "id: at most 256 characters"),
    ],
)
def test_what_does_not_fit_is_an_invalid_argument(remote: GrpcClient, request_: Any, words: str) -> None:
    error = remote.fail("ModelInfer", request_)
    assert error.code() == CODE.INVALID_ARGUMENT
    assert words in (error.details() or "")
    assert metadata_of(error)["problem-type"].startswith("urn:ddl:problem:invalid-")


def test_unknown_models_are_not_found(remote: GrpcClient, pixels: np.ndarray) -> None:
    for members in ({"model_name": "nix"}, {"model_version": "7"}):
        assert remote.fail("ModelInfer", infer_request(pixels, **members)).code() == CODE.NOT_FOUND


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.binary(max_size=60))
def test_no_bytes_make_the_service_fail(remote: GrpcClient, noise: bytes, tail: bytes) -> None:
    whole = infer_request(np.zeros((1, 1, HEIGHT, WIDTH), np.float32)).SerializeToString()

    async def outcome(data: bytes) -> tuple[grpc.StatusCode, str]:
        async with grpc.aio.insecure_channel(remote.target) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(data)
            return await call.code(), await call.details() or ""

    for data in (noise, whole + tail, whole[: len(tail)] + noise):
        code, details = remote.client.run(outcome(data))
        assert code in (CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND), details


def test_a_stream_is_answered_in_its_order_and_survives_errors(remote: GrpcClient, maker: BundleMaker) -> None:
    inputs = [np.random.default_rng(i).standard_normal((1, 1, HEIGHT, WIDTH)).astype(np.float32) for i in range(150)]
    requests = [infer_request(pixels, "logits", id=str(i)) for i, pixels in enumerate(inputs)]
    requests[3].inputs[0].datatype = "INT64"
    requests[7].model_name = "nix"
    responses = remote.stream(requests)
    assert [response.infer_response.id for response in responses] == [str(i) for i in range(150)]
    assert "is FP32, not 'INT64'" in responses[3].error_message
    assert "no model 'nix'" in responses[7].error_message
    for i in (0, 4, 149):
        assert not responses[i].error_message
        assert responses[i].infer_response.parameters["triton_final_response"].bool_param
        expected = reference(maker.weights, inputs[i])["logits"]
        assert output_of(responses[i].infer_response, "logits") == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_stream_that_its_client_gives_up_costs_nothing(serve_grpc: Any, pixels: np.ndarray) -> None:
    remote = serve_grpc()
    batcher = remote.client.state.repository.get("tiny").batcher

    async def scenario() -> None:
        async with BusyModel(remote.client), grpc.aio.insecure_channel(remote.target) as channel:

            async def requests() -> AsyncIterator[Any]:
                for _ in range(100):
                    yield infer_request(pixels)
                await asyncio.sleep(20)

            stream = GrpcClient.method(channel, "ModelStreamInfer")(requests())
            await until(lambda: batcher.waiting >= 64)
            assert batcher.waiting <= 66  # not all 100: the stream is held back
            stream.cancel()
            await until(lambda: batcher.waiting == 0)
        assert (await remote.acall("ModelInfer", infer_request(pixels))).model_name == "tiny"

    remote.client.run(scenario())
    assert batcher.statistics.cancel.count >= 64


def test_a_call_that_its_client_gives_up_costs_nothing(serve_grpc: Any, pixels: np.ndarray) -> None:
    remote = serve_grpc()

    async def scenario() -> None:
        async with BusyModel(remote.client) as batcher, grpc.aio.insecure_channel(remote.target) as channel:
            call = GrpcClient.method(channel, "ModelInfer")(infer_request(pixels))
            await until(lambda: batcher.waiting == 1)
            call.cancel()
            await until(lambda: batcher.waiting == 0)
            call = GrpcClient.method(channel, "ModelInfer")(infer_request(pixels), timeout=0.05)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == CODE.DEADLINE_EXCEEDED
            await until(lambda: batcher.waiting == 0)

    remote.client.run(scenario())
    metrics = remote.client.get("/metrics").text
    assert 'method="GRPC",route="/inference.GRPCInferenceService/ModelInfer",status="499"} 2.0' in metrics


def test_a_full_queue_is_unavailable_and_a_passed_timeout_is_exceeded(serve_grpc: Any, pixels: np.ndarray) -> None:
    remote = serve_grpc(queue_limit=1)
    patient = infer_request(pixels)
    patient.parameters["timeout"].int64_param = 200_000

    async def scenario() -> tuple[Any, Any]:
        async with BusyModel(remote.client) as batcher:
            waiting = asyncio.create_task(remote.acall("ModelInfer", patient))
            await until(lambda: batcher.waiting == 1)
            results = await asyncio.gather(
                remote.acall("ModelInfer", infer_request(pixels)), waiting, return_exceptions=True
            )
            return results[0], results[1]

    full, late = remote.client.run(scenario())
    assert full.code() == CODE.UNAVAILABLE
    assert int(metadata_of(full)["retry-after"]) >= 1
    assert metadata_of(full)["problem-type"] == "urn:ddl:problem:overloaded"
    assert late.code() == CODE.DEADLINE_EXCEEDED


def test_a_model_that_fails_is_internal_and_a_surprise_has_no_words(
    serve_grpc: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = serve_grpc()
    session = remote.client.state.repository.get("tiny").session

    def fail(error: Exception) -> grpc.aio.AioRpcError:
        def run(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(session, "run", run)
        return remote.fail("ModelInfer", infer_request(pixels))

    known = fail(ModelFailed("the model could not be run: no memory"))
    assert (known.code(), known.details()) == (CODE.INTERNAL, "the model could not be run: no memory")
    assert metadata_of(known)["problem-type"] == "urn:ddl:problem:model-failed"
    monkeypatch.setattr(remote.client.state.repository, "get", None)
    surprise = remote.fail("ModelInfer", infer_request(pixels))
    assert surprise.code() == CODE.INTERNAL
    assert "NoneType" not in (surprise.details() or "")
    assert metadata_of(surprise)["x-request-id"] in (surprise.details() or "")


def test_a_message_beyond_the_limit_is_refused_also_when_it_was_compressed(serve_grpc: Any) -> None:
    remote = serve_grpc(max_body_bytes=1_000_000, max_rows=100_000)
    bomb = infer_request(np.zeros((10_000, 1, HEIGHT, WIDTH), np.float32))
    assert len(gzip.compress(bomb.SerializeToString())) < 100_000
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        error = remote.fail("ModelInfer", bomb, compression=compression)
        assert error.code() == CODE.RESOURCE_EXHAUSTED
    small = infer_request(np.zeros((2, 1, HEIGHT, WIDTH), np.float32))
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert remote.call("ModelInfer", small, compression=compression).outputs[0].shape[0] == 2
