"""The gRPC server: its port, its limits, its methods."""

import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from service.api.state import State
from service.grpc import inference_pb2 as pb
from service.grpc.answers import METHODS
from service.grpc.codec import parse
from service.grpc.exchange import Exchange, answered
from service.grpc.infer import infer, stream
from service.settings import InvalidSettings, Settings

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_FRAME_BYTES = 64 * 1024
"""What a message may have beside its tensors; these are limited like an HTTP body."""

_logger = logging.getLogger(__name__)


class GrpcServer:
    """Serves what `state` holds, on the running event loop."""

    def __init__(self, state: State) -> None:
        """Open the port, on which nothing is answered yet.

        Raises:
            InvalidSettings: the port is taken, or the certificate cannot be used.
        """
        settings = state.settings
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes + _FRAME_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", settings.max_header_bytes),
                ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
                ("grpc.so_reuseport", 0),  # two services on one port are a mistake
            ],
            maximum_concurrent_rpcs=settings.max_connections,
        )
        self._server.add_generic_rpc_handlers((_handlers(state),))
        self.port = _open(self._server, settings)

    async def start(self) -> None:
        """Answer."""
        await self._server.start()
        _logger.info("grpc is served", extra={"fields": {"port": self.port}})

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and give those in flight `seconds` to finish."""
        await self._server.stop(seconds)


def _open(server: Any, settings: Settings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_certificate is None or settings.tls_key is None:
            return int(server.add_insecure_port(address))
        authority = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], authority, authority is not None)
        return int(server.add_secure_port(address, credentials))
    except (OSError, RuntimeError) as error:
        raise InvalidSettings(f"grpc_port={settings.grpc_port}: {address} cannot be served: {error}") from error


def _handlers(state: State) -> Any:
    handlers: dict[str, Any] = {}
    for method in _SERVICE.methods:
        path = f"/{_SERVICE.full_name}/{method.name}"
        streams = method.name == "ModelStreamInfer"
        kind = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        read = partial(parse, GetMessageClass(method.input_type))
        handle: Any = partial(_stream, state, path) if streams else partial(_unary, state, path, method.name, read)
        handlers[method.name] = kind(
            handle,
            # Requests stay bytes until the guard has let them in.
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)


async def _unary(state: State, path: str, name: str, read: Callable[[bytes], Any], data: bytes, context: Any) -> Any:
    if name == "ModelInfer":
        return await answered(state, context, path, "infer", lambda: infer(state, read(data)))
    method = METHODS[name]
    return await answered(state, context, path, method.scope, lambda: method.answer(state, read(data)))


async def _stream(state: State, path: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
    exchange = Exchange(state, context, path)
    try:
        async for response in stream(state, requests, exchange):
            yield response
    except Exception as error:
        await exchange.abort(error)
