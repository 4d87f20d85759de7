"""The guard, TLS and the end of the service, over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from service.app import create_app
from service.grpc import inference_pb2 as pb
from service.security.keys import KeyFile, new_key, write_keys
from service.settings import Settings
from tests.service.conftest import BusyModel, Client, until
from tests.service.grpc.client import GrpcClient, infer_request, metadata_of

CODE = grpc.StatusCode


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """Return settings with a file of keys, and the keys by name."""
    made = {"user": new_key("user", ["infer"]), "slow": new_key("slow", ["infer"], rate=0.001, burst=1)}
    path = tmp_path / "keys.json"
    write_keys(path, KeyFile(keys=tuple(record for _, record in made.values())))
    return {"api_keys": path, **{name: (("authorization", f"Bearer {key}"),) for name, (key, _) in made.items()}}


def test_the_guard_is_asked_before_the_message_is_read(serve_grpc: Any, keys: Any, pixels: np.ndarray) -> None:
    remote = serve_grpc(api_keys=keys["api_keys"])
    assert remote.call("ServerLive", pb.ServerLiveRequest()).live
    assert remote.fail("ModelInfer", infer_request(pixels)).code() == CODE.UNAUTHENTICATED
    assert remote.call("ModelInfer", infer_request(pixels), metadata=keys["user"]).model_name == "tiny"
    error = remote.fail("RepositoryModelLoad", pb.RepositoryModelLoadRequest(), metadata=keys["user"])
    assert error.code() == CODE.PERMISSION_DENIED
    assert metadata_of(error)["problem-type"] == "urn:ddl:problem:forbidden"

    async def send_noise() -> Any:
        async with grpc.aio.insecure_channel(remote.target) as channel:
            return await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        remote.client.run(send_noise())
    assert caught.value.code() == CODE.UNAUTHENTICATED


def test_limits_count_calls_and_the_messages_of_a_stream(serve_grpc: Any, keys: Any, pixels: np.ndarray) -> None:
    remote = serve_grpc(api_keys=keys["api_keys"])
    first, second = remote.stream([infer_request(pixels)] * 2, metadata=keys["slow"])
    assert not first.error_message
    assert "try again" in second.error_message
    error = remote.fail("ModelInfer", infer_request(pixels), metadata=keys["slow"])
    assert error.code() == CODE.RESOURCE_EXHAUSTED
    assert int(metadata_of(error)["retry-after"]) >= 1


def test_a_stream_without_a_key_ends(serve_grpc: Any, keys: Any, pixels: np.ndarray) -> None:
    remote = serve_grpc(api_keys=keys["api_keys"])

    async def one_and_wait() -> AsyncIterator[Any]:
        yield infer_request(pixels)
        await asyncio.sleep(20)  # a message into the ended stream would be another error of the client's library

    async def send() -> Any:
        async with grpc.aio.insecure_channel(remote.target) as channel:
            return await GrpcClient.method(channel, "ModelStreamInfer")(one_and_wait()).code()

    assert remote.client.run(send()) == CODE.UNAUTHENTICATED


def test_tls(serve_grpc: Any, tmp_path: Path, pixels: np.ndarray) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pair.cert_chain_pems[0].write_to_path(certificate)
    pair.private_key_pem.write_to_path(key)
    remote = serve_grpc(tls_certificate=certificate, tls_key=key)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())

    async def call() -> Any:
        async with grpc.aio.secure_channel(f"localhost:{remote.client.state.grpc_port}", credentials) as channel:
            return await GrpcClient.method(channel, "ModelInfer")(infer_request(pixels))

    assert remote.client.run(call()).model_name == "tiny"
    assert remote.fail("ServerLive", pb.ServerLiveRequest(), timeout=5).code() == CODE.UNAVAILABLE


def test_calls_in_flight_are_answered_when_the_service_stops(repository: Path, pixels: np.ndarray) -> None:
    client = Client(create_app(Settings(repository=repository, grpc_port=0)))
    remote = GrpcClient(client)

    async def scenario() -> list[Any]:
        busy = BusyModel(client)
        async with busy as batcher:
            calls = [asyncio.create_task(remote.acall("ModelInfer", infer_request(pixels))) for _ in range(24)]
            await until(lambda: batcher.waiting == 24)
            closing = asyncio.create_task(client.leave())
            await asyncio.sleep(0.1)
        answers = await asyncio.gather(*calls)
        await closing
        return answers

    answers = client.run(scenario())
    client.close()
    assert [answer.model_name for answer in answers] == ["tiny"] * 24
