"""Many streams for a long time, of which many leave: nothing is lost, nothing leaks, everyone gets what is due.

`make soak` lets it run for ten minutes.
"""

import asyncio
import os
import random
import resource
import threading
from dataclasses import replace

from service.engine.generation.constraint import ConstraintCompiler
from service.engine.generation.engine import GenerationEngine
from service.engine.generation.events import TokenEvent
from service.engine.generation.language import Language
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import Overloaded
from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT

SECONDS = float(os.environ.get("SOAK_SECONDS", "3"))
STREAMS = 64
GROWTH_KIB = 16 * 1024
"""What the allocator may keep beyond the first seconds; a leak of a step's arrays would be gigabytes in ten minutes."""

Told = dict[int, list[tuple[int | None, str]]]
"""What a stream told, by choice."""


def requests(words: Words) -> list[GenerateRequest]:
    assert words.tokenizer.end_of_text is not None
    compiler = ConstraintCompiler(words.tokenizer.json, words.vocabulary, words.tokenizer.end_of_text)
    hot = SamplingParams(temperature=1.1, top_k=40, top_p=0.95, seed=7)
    greedy = SamplingParams(temperature=0.0)
    made = [
        GenerateRequest(tuple(TEXT[:30]), greedy, max_tokens=20, ignore_end=True),
        GenerateRequest(tuple(TEXT[:30]), hot, max_tokens=25, n=3, logprobs=2),
        GenerateRequest(tuple(TEXT[:18] + TEXT[60:64]), hot, max_tokens=9, stop=("delta", "a ")),
        GenerateRequest(tuple(TEXT[40:41]), greedy, max_tokens=40, ignore_end=True, prompt_logprobs=1),
        GenerateRequest(tuple(TEXT[20:70]), hot, max_tokens=0, prompt_logprobs=0, scored_from=40),
        GenerateRequest(tuple(TEXT[3:9]), hot, max_tokens=30, constraint=compiler.regex("[a-z ]{3,60}")),
        GenerateRequest(tuple(TEXT[50:62]), replace(hot, repetition_penalty=1.3), max_tokens=15, best_of=3),
    ]
    return [*made, *(replace(request, caller="another", priority=3) for request in made[:3])]


async def listen(engine: GenerationEngine, request: GenerateRequest, most: int | None = None) -> Told:
    """Return what a stream tells; with `most`, leave after so many events."""
    told: Told = {}
    async with engine.submit(request) as stream:
        seen = 0
        async for event in stream:
            told.setdefault(event.choice, []).append(_plain(event))
            seen += 1
            if seen == most:
                break
    return told


def _plain(event: TokenEvent) -> tuple[int | None, str]:
    assert event.error is None
    return event.token, event.text


async def soak(words: Words, seconds: float) -> dict[str, int]:
    limits = GenerationLimits(slots=6, slot_tokens=96, step_tokens=24, queue_limit=STREAMS)
    language = Language(words.task, words._whole, words.session, words.tokenizer, limits)
    engine = language.engine
    asked = requests(words)
    alone = [await listen(engine, request) for request in asked]
    dice = random.Random(1)
    clock = asyncio.get_running_loop().time
    end, seen = clock() + seconds, {"whole": 0, "left": 0, "refused": 0}
    memory: list[int] = []

    async def client() -> None:
        while clock() < end:
            number = dice.randrange(len(asked))
            most = dice.choice((None, None, None, 1, 3, 8))
            try:
                if dice.random() < 0.1:
                    async with asyncio.timeout(dice.random() * 0.05):
                        await listen(engine, asked[number])
                    continue
                told = await listen(engine, asked[number], most)
            except TimeoutError:
                seen["left"] += 1
                continue
            except Overloaded:
                seen["refused"] += 1
                await asyncio.sleep(0.01)
                continue
            if most is None:
                assert told == alone[number]
                seen["whole"] += 1
            else:
                assert all(events == alone[number][choice][: len(events)] for choice, events in told.items())
                seen["left"] += 1

    async def watch() -> None:
        while clock() < end:
            memory.append(resident_kib())
            await asyncio.sleep(seconds / 20)

    await asyncio.gather(watch(), *(client() for _ in range(STREAMS)))
    await language.drain()
    loop = engine.loop
    assert (loop.waiting, loop.running, loop._table.free) == (0, 0, limits.slots)
    assert not loop.counts.failed
    assert not loop.counts.expired
    await language.close()
    assert max(memory[len(memory) // 2 :]) - max(memory[: len(memory) // 2]) < GROWTH_KIB, memory
    return seen


def resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def test_many_streams_lose_nothing_and_leak_nothing(words: Words) -> None:
    threads = threading.active_count()
    seen = asyncio.run(soak(words, SECONDS))
    assert seen["whole"] > 10
    assert seen["left"] > 10
    assert threading.active_count() == threads
