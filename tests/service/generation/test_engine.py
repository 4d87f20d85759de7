"""The engine on its thread: streams that end, leave, are never read, or come all at once."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from service.engine.generation.engine import GenerationEngine, Stream
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.loop import GenerationLoop
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import InvalidFields, ModelFailed, ModelNotReady, Overloaded
from tests.service.generation.conftest import Words

GREEDY = SamplingParams(temperature=0.0)
TEXT: list[int] = np.random.default_rng(8).integers(1, 270, 200).tolist()


@asynccontextmanager
async def running(words: Words, slots: int = 4, **limits: Any) -> AsyncIterator[GenerationEngine]:
    loop = GenerationLoop(
        words.stepper(slots, 64),
        words.tokenizer,
        GenerationLimits(slots=slots, slot_tokens=64, step_tokens=16, **limits),
    )
    engine = GenerationEngine(loop)
    try:
        yield engine
    finally:
        await engine.close()


def ask(prompt: list[int], max_tokens: int = 8, **fields: Any) -> GenerateRequest:
    return GenerateRequest(tuple(prompt), GREEDY, max_tokens=max_tokens, ignore_end=True, **fields)


async def tokens(stream: Stream, most: int = 1000) -> list[int]:
    found = []
    async with stream:
        async for event in stream:
            assert event.token is not None
            found.append(event.token)
            if len(found) == most:
                break
    return found


def test_a_stream_tells_the_answer_and_ends(words: Words) -> None:
    async def main() -> None:
        async with running(words) as engine:
            events = [event async for event in engine.submit(ask(TEXT[:5]))]
            assert [event.token for event in events] == words.continued(TEXT[:5], 8)
            assert [event.is_last for event in events] == [False] * 7 + [True]
            assert [event async for event in engine.submit(ask(TEXT[:5], n=3)) if event.is_last][2].finish == "length"

    asyncio.run(main())


def test_many_streams_of_which_some_leave_get_what_each_would_get_alone(words: Words) -> None:
    async def caller(engine: GenerationEngine, number: int) -> None:
        chance = random.Random(number)
        for _ in range(3):
            start, size, count = chance.randrange(20), chance.choice([1, 4, 17, 30]), chance.randrange(1, 20)
            prompt = TEXT[start : start + size]
            leaves = chance.choice([1, 3, 1000, 1000])
            await asyncio.sleep(chance.random() / 50)
            found = await tokens(engine.submit(ask(prompt, count, caller=str(number % 5))), leaves)
            assert found == words.continued(prompt, count)[:leaves]

    async def main() -> None:
        async with running(words, slots=6) as engine:
            await asyncio.gather(*(caller(engine, number) for number in range(64)))
            await engine.drain()
            counts = engine.loop.counts
            assert (engine.loop.waiting, engine.loop.running, counts.failed) == (0, 0, 0)
            assert counts.completed + counts.cancelled == 192
            assert counts.reused_tokens > 0

    asyncio.run(main())


def test_a_stream_that_is_never_read_stalls_nobody(words: Words) -> None:
    async def main() -> None:
        async with running(words, slots=1) as engine:
            unread = engine.submit(ask(TEXT[:5], 40))
            assert await tokens(engine.submit(ask(TEXT[30:34]))) == words.continued(TEXT[30:34], 8)
            assert await tokens(unread) == words.continued(TEXT[:5], 40)

    asyncio.run(main())


def test_a_cancelled_stream_ends_for_its_reader_and_frees_the_engine(words: Words) -> None:
    async def main() -> None:
        async with running(words, slots=1) as engine:
            stream = engine.submit(ask(TEXT[:5], 59))
            reader = asyncio.create_task(tokens(stream))
            await anext(stream)
            stream.cancel()
            assert len(await reader) < 59
            stream.cancel()
            await engine.drain()
            assert engine.loop.counts.cancelled == 1

    asyncio.run(main())


def test_draining_ends_what_runs_and_refuses_the_rest(words: Words) -> None:
    async def main() -> None:
        async with running(words) as engine:
            stream = engine.submit(ask(TEXT[:5], 30))
            drained = asyncio.create_task(engine.drain())
            await asyncio.sleep(0)
            with pytest.raises(ModelNotReady):
                engine.submit(ask(TEXT[:5]))
            assert len(await tokens(stream)) == 30
            await asyncio.wait_for(drained, 5)

    asyncio.run(main())


def test_closing_tells_those_who_have_no_answer(words: Words) -> None:
    async def main() -> None:
        async with running(words, slots=1) as engine:
            streams = [engine.submit(ask(TEXT[i : i + 5], 59)) for i in range(3)]
            await anext(streams[0])
            await engine.close()
            lasts = [[event async for event in stream][-1] for stream in streams]
            assert isinstance(lasts[2].error, ModelNotReady)
            await asyncio.wait_for(engine.drain(), 5)

    asyncio.run(main())


def test_refused_requests_leave_no_trace(words: Words) -> None:
    async def main() -> None:
        async with running(words, queue_limit=0) as engine:
            with pytest.raises(Overloaded):
                engine.submit(ask(TEXT[:5]))
            with pytest.raises(InvalidFields):
                engine.submit(ask(TEXT[:5], 60))
            await asyncio.wait_for(engine.drain(), 5)

    asyncio.run(main())


def test_a_fault_of_the_engine_itself_is_told_and_the_next_request_is_served(
    words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(words) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(engine.loop, "_decode", lambda: 1 // 0)
                events = [event async for event in engine.submit(ask(TEXT[:5]))]
                assert isinstance(events[-1].error, ModelFailed)
                assert "ZeroDivisionError" in str(events[-1].error)
            assert await tokens(engine.submit(ask(TEXT[:5]))) == words.continued(TEXT[:5], 8)

    asyncio.run(main())
