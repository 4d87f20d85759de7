"""A plain gRPC client of the service's own messages."""

from collections.abc import Iterable
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from service.grpc import inference_pb2 as pb
from tests.service.conftest import Client

METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name


class GrpcClient:
    """Calls an application that serves gRPC, on the application's own event loop."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.target = f"127.0.0.1:{client.state.grpc_port}"

    def call(self, name: str, request: Message, **options: Any) -> Any:
        """Call a method and return its answer."""
        return self.client.run(self.acall(name, request, **options))

    async def acall(self, name: str, request: Message, **options: Any) -> Any:
        async with grpc.aio.insecure_channel(self.target) as channel:
            return await self.method(channel, name)(request, **options)

    def fail(self, name: str, request: Message, **options: Any) -> grpc.aio.AioRpcError:
        """Call a method that must fail and return its error."""
        try:
            answer = self.call(name, request, **options)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"{name} answered {answer}")

    def stream(self, requests: Iterable[Message], **options: Any) -> list[pb.ModelStreamInferResponse]:
        """Send messages in one stream and return what comes back."""

        async def run() -> list[Any]:
            async with grpc.aio.insecure_channel(self.target) as channel:
                stream = self.method(channel, "ModelStreamInfer")(iter(requests), **options)
                return [response async for response in stream]

        found: list[pb.ModelStreamInferResponse] = self.client.run(run())
        return found

    @staticmethod
    def method(channel: grpc.aio.Channel, name: str) -> Any:
        method = METHODS[name]
        kind = channel.stream_stream if name == "ModelStreamInfer" else channel.unary_unary
        return kind(
            f"/inference.GRPCInferenceService/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


def infer_request(pixels: np.ndarray, *outputs: str, raw: bool = True, **members: Any) -> pb.ModelInferRequest:
    """Return a request for the model `tiny`."""
    request = pb.ModelInferRequest(**{"model_name": "tiny", **members})
    tensor = request.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape)
    if raw:
        request.raw_input_contents.append(pixels.tobytes())
    else:
        tensor.contents.fp32_contents.extend(pixels.ravel())
    for name in outputs:
        request.outputs.add(name=name)
    return request


def output_of(response: pb.ModelInferResponse, name: str) -> np.ndarray:
    """Return an output of the answer."""
    index = [output.name for output in response.outputs].index(name)
    return np.frombuffer(response.raw_output_contents[index], np.float32).reshape(response.outputs[index].shape)


def metadata_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the trailing metadata of an error."""
    return dict(error.trailing_metadata() or ())
