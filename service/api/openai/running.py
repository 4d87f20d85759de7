"""Answers of several prompts at once: all are taken on or none, and whoever leaves gives up what is left."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from starlette.requests import Request

from service.api.state import gone
from service.engine.generation.engine import GenerationEngine, Stream
from service.engine.generation.events import TokenEvent
from service.engine.generation.request import GenerateRequest
from service.errors import CallerGone, InvalidFields

T = TypeVar("T")


def submit(engine: GenerationEngine, wanted: GenerateRequest, prompts: list[list[int]]) -> list[Stream]:
    """Let every prompt wait for its turn.

    Raises:
        InvalidFields: a prompt does not fit the model, or there are more answers than can ever wait.
        Overloaded: not all of them can wait; none does then.
        ModelNotReady: the engine takes no more requests.
    """
    requests = [replace(wanted, prompt=tuple(prompt)) for prompt in prompts]
    answers, most = len(requests) * wanted.choices, engine.loop.limits.queue_limit
    if answers > most:
        raise InvalidFields(
            f"{len(requests)} prompts with {wanted.choices} answers each are {answers} answers, "
            f"more than the {most} that can wait here; send fewer prompts at once",
            field="prompt",
            code="invalid_value",
        )
    streams: list[Stream] = []
    try:
        for request in requests:
            streams.append(engine.submit(request))
    except BaseException:
        cancel(streams)
        raise
    return streams


def cancel(streams: list[Stream]) -> None:
    """Give up what has not come yet of every stream."""
    for stream in streams:
        stream.cancel()


async def merged(streams: list[Stream]) -> AsyncGenerator[tuple[int, TokenEvent], None]:
    """Yield the events of all streams as they come, each with the number of its stream; then give up the streams.

    Raises:
        ServiceError: an answer failed.
    """
    try:
        if len(streams) == 1:
            async for event in streams[0]:
                yield 0, _told(event)
            return
        coming = {asyncio.ensure_future(anext(stream)): number for number, stream in enumerate(streams)}
        try:
            while coming:
                done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                for future in sorted(done, key=coming.__getitem__):
                    number = coming.pop(future)
                    with contextlib.suppress(StopAsyncIteration):
                        event = _told(future.result())
                        coming[asyncio.ensure_future(anext(streams[number]))] = number
                        yield number, event
        finally:
            for future in coming:
                future.cancel()
            await asyncio.gather(*coming, return_exceptions=True)
    finally:
        cancel(streams)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` comes to; it is cancelled when the client hangs up. The body must have been read.

    Raises:
        CallerGone: it has.
    """
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone(request)())
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerGone("the caller hung up before its answer was ready")
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def _told(event: TokenEvent) -> TokenEvent:
    if event.error is not None:
        raise event.error
    return event
