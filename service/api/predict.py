"""Open Inference Protocol: inference, with JSON and with binary tensors."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from service.api.body import BINARY, JSON, media_type
from service.api.state import gone, in_worker, state_of
from service.protocol.call import Encoded, InferCall, Limits
from service.protocol.compression import decompress
from service.protocol.decode import decode, read_header_length
from service.protocol.encode import encode
from service.repository import Loaded

HEADER_LENGTH = "Inference-Header-Content-Length"

_INLINE_BYTES = 64 * 1024
_INLINE_CELLS = 4096
"""JSON up to these sizes is read and written in less time than a change of threads takes."""


async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Run a model on tensors.

    Without `outputs`, every output is answered but those that carry gates; name these to get them. Tensors are JSON,
    or bytes behind the JSON whose length the header `Inference-Header-Content-Length` then gives; a body that is the
    bytes of the only input and nothing else gives 0 there. Numbers that are not finite are null in JSON.
    """
    state = state_of(request)
    state.repository.get(name, version)  # who asks for no model need not send its body first
    media_type(request, JSON, BINARY, compressed=True)
    header_length = read_header_length(request.headers.get(HEADER_LENGTH))
    body = await request.body()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        body = await in_worker(request, partial(decompress, body, encoding, state.settings.max_body_bytes))
    model = state.repository.get(name, version)
    limits = Limits(state.settings.max_rows, state.settings.json_cells)
    with model.in_use():
        call = await _decode(request, body, header_length, model, limits)
        arrays = await model.batcher.run(
            call.feeds,
            call.names,
            rows=call.rows,
            priority=call.priority,
            timeout_seconds=call.timeout_seconds,
            gone=gone(request),
        )
        if sum(arrays[wish.name].size for wish in call.outputs if not wish.binary) <= _INLINE_CELLS:
            return _response(encode(model.view, call, arrays, limits))
        return _response(await in_worker(request, partial(encode, model.view, call, arrays, limits)))


async def _decode(request: Request, body: bytes, header_length: int | None, model: Loaded, limits: Limits) -> InferCall:
    json_bytes = len(body) if header_length is None else min(len(body), header_length)
    if json_bytes <= _INLINE_BYTES:
        return decode(body, header_length, model.view, limits)
    return await in_worker(request, partial(decode, body, header_length, model.view, limits))


def _response(encoded: Encoded) -> Response:
    headers = {"Content-Type": encoded.content_type.decode()}
    if encoded.header_length is not None:
        headers[HEADER_LENGTH] = str(encoded.header_length)
    return Response(encoded.body, headers=headers)
