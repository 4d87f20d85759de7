"""Checks of KServe's client, over HTTP and over gRPC."""

import asyncio

import numpy as np
from checks import GRPC, HTTP, LABELS, MODEL, pixels, refused, run
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL = f"http://{HTTP}"


def request(array, *, binary=False, name=MODEL, outputs=None, **options):
    given = InferInput("pixels", list(array.shape), "FP32")
    given.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(name, [given], request_outputs=outputs, **options)


def over_rest(call):
    async def go():
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return await call(client)

    return asyncio.run(go())


def over_grpc(call):
    async def go():
        async with InferenceGRPCClient(GRPC) as client:
            return await call(client)

    return asyncio.run(go())


def logits(response):
    return response.get_output_by_name("logits").as_numpy()


def check_rest_health():
    assert over_rest(lambda client: client.is_server_live(URL))
    assert over_rest(lambda client: client.is_server_ready(URL))
    assert over_rest(lambda client: client.is_model_ready(URL, MODEL))
    assert not over_rest(lambda client: client.is_model_ready(URL, "nix"))


def check_rest_json_and_binary():
    plain = over_rest(lambda client: client.infer(URL, request(pixels(2)), model_name=MODEL))
    binary = over_rest(lambda client: client.infer(URL, request(pixels(2), binary=True), model_name=MODEL))
    assert logits(plain).shape == (2, len(LABELS))
    assert np.array_equal(logits(plain), logits(binary))
    assert plain.model_name == MODEL


def check_rest_outputs():
    outputs = [RequestedOutput("logits", {"binary_data": True})]
    response = over_rest(lambda client: client.infer(URL, request(pixels(), outputs=outputs), model_name=MODEL))
    assert [output.name for output in response.outputs] == ["logits"]
    plain = over_rest(lambda client: client.infer(URL, request(pixels()), model_name=MODEL))
    assert np.array_equal(logits(response), logits(plain))


def check_rest_id():
    given = request(pixels(), request_id="mine")
    assert over_rest(lambda client: client.infer(URL, given, model_name=MODEL)).id == "mine"


def check_rest_errors():
    refused(lambda: over_rest(lambda client: client.infer(URL, request(pixels()[0]), model_name=MODEL)), "400")
    refused(lambda: over_rest(lambda client: client.infer(URL, request(pixels(), name="nix"), model_name="nix")), "404")


def check_grpc_health():
    assert over_grpc(lambda client: client.is_server_live())
    assert over_grpc(lambda client: client.is_server_ready())
    assert over_grpc(lambda client: client.is_model_ready(MODEL))


def check_grpc_inference():
    plain = over_rest(lambda client: client.infer(URL, request(pixels(2)), model_name=MODEL))
    for binary in (False, True):
        given = request(pixels(2), binary=binary, request_id="mine")
        response = over_grpc(lambda client, given=given: client.infer(given))
        assert np.array_equal(logits(response), logits(plain))
        assert response.id == "mine"


def check_grpc_errors():
    refused(lambda: over_grpc(lambda client: client.infer(request(pixels()[0]))), "has shape")
    refused(lambda: over_grpc(lambda client: client.infer(request(pixels(), name="nix"))), "no model 'nix'")


if __name__ == "__main__":
    run(globals())
