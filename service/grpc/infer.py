"""Inference: one message, or a stream of them."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from service.api.state import State
from service.errors import Forbidden, Unauthenticated
from service.grpc import inference_pb2 as pb
from service.grpc.codec import decode, encode, parse
from service.grpc.exchange import Exchange, words
from service.protocol.call import Limits

_INLINE_BYTES = 64 * 1024
"""Typed contents up to this size are read in less time than a change of threads takes."""
_IN_FLIGHT = 64
"""Messages of one stream that are worked on at a time; the sender of more has to wait."""


async def infer(state: State, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Run a model on tensors.

    Raises:
        ServiceError: the request does not fit, or cannot be served now.
    """
    name, version = request.model_name, request.model_version or None
    limits = Limits(state.settings.max_rows, state.settings.json_cells)
    model = state.repository.get(name, version)
    with model.in_use():
        if request.raw_input_contents or request.ByteSize() <= _INLINE_BYTES:
            call = decode(request, model.view, limits)
        else:
            call = await state.runner.run(partial(decode, request, model.view, limits))
        arrays = await model.batcher.run(
            call.feeds, call.names, rows=call.rows, priority=call.priority, timeout_seconds=call.timeout_seconds
        )
        return encode(model.view, call, arrays)


async def stream(
    state: State, requests: AsyncIterator[bytes], exchange: Exchange
) -> AsyncIterator[pb.ModelStreamInferResponse]:
    """Answer each message in its turn; they are worked on side by side, and one that fails does not end the stream.

    Raises:
        Unauthenticated, Forbidden: the caller may not do this at all.
    """
    tasks: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue()
    places = asyncio.Semaphore(_IN_FLIGHT)
    working: set[asyncio.Task[pb.ModelStreamInferResponse]] = set()

    def ended(task: "asyncio.Task[pb.ModelStreamInferResponse]") -> None:
        working.discard(task)
        if not task.cancelled():
            task.exception()  # told to the client if it still waits; else there is nobody to tell

    async def read() -> None:
        try:
            async for data in requests:
                await places.acquire()
                task = asyncio.create_task(_answer(state, data, exchange))
                working.add(task)
                task.add_done_callback(ended)
                tasks.put_nowait(task)
        finally:
            tasks.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await tasks.get()) is not None:
            yield await task
            places.release()
        await reader
    finally:
        reader.cancel()
        for task in working:
            task.cancel()


async def _answer(state: State, data: bytes, exchange: Exchange) -> pb.ModelStreamInferResponse:
    request = pb.ModelInferRequest()
    try:
        async with exchange.booked():
            exchange.admit("infer")
            request = parse(pb.ModelInferRequest, data)
            response = await infer(state, request)
    except (Unauthenticated, Forbidden):
        raise
    except Exception as error:
        # The id tells the client which of its requests it was.
        failed = pb.ModelInferResponse(id=request.id)
        return pb.ModelStreamInferResponse(error_message=words(error, exchange.id), infer_response=failed)
    response.parameters["triton_final_response"].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=response)
