"""Time generation at 124M: `python -m benchmarks.bench_generation --folder DIR [--torch] [--out FILE] [--rounds N]`.

Exports the paper's network with random weights into DIR, in float32 and int8, if it is not there yet, and lets the
engine of the service continue texts on one thread: CPU milliseconds for each step, tokens per CPU second, how much of
a step is the engine's own Python, what a step costs with more context, and the time to the first token beside others.
Beside it stand torch's steps of the same weights, eager and compiled, and how fast one thread reads memory.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import report
from benchmarks.model_forms import Work, torch_step
from ddl_model.checkpoint import Checkpoint, save_checkpoint
from ddl_model.config import LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training.recipes import paper_124m
from export.pipeline import export_bundle
from export.precision_check import Lowering, PrecisionName
from service.bundle import Bundle, LanguageModelling, StepGraph, read_bundle
from service.engine.generation.cache_slots import CacheSlots
from service.engine.generation.engine import GenerationEngine
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.loop import GenerationLoop
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.engine.generation.stepper import Stepper
from service.runtime.kernel_library import choose_kernel
from service.runtime.session import CPU
from service.runtime.step_session import BoundRun, StepSession

SLOTS, SLOT_TOKENS = 8, 2048
CONTEXTS = (32, 256, 1024, 1984)
PROMPT = 32
STEPS = 12
"""Steps that are timed in a round; the median counts."""
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0),
    "top-k 40, top-p 0.95": SamplingParams(temperature=0.8, top_k=40, top_p=0.95, seed=1),
}


class Figure(NamedTuple):
    """Medians of one way to decode: milliseconds of CPU for each step, and of that in the graph."""

    step: float
    graph: float
    rows: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens per CPU second."""
        return self.rows * 1000 / self.step

    @property
    def python(self) -> float:
        """The engine's own part of a step."""
        return 1 - self.graph / self.step


def export(folder: Path, precision: PrecisionName, layers: int) -> Bundle:
    """Return the network's bundle in a precision, from DIR or made anew."""
    bundle = folder / f"paper-124m-{precision}" / "1"
    if not bundle.exists():
        print(f"exporting {bundle} ...", file=sys.stderr)
        run = folder / "run"
        if not run.exists():
            model, config = network(layers)
            ids = torch.randint(config.vocab_size, (1, 33))
            samples = {"input_ids": ids[:, :-1].clone(), "labels": ids[:, 1:].clone()}
            save_checkpoint(run, 0, Checkpoint(model.state_dict(), config, {}, samples=samples))
        # Random weights tell nothing of what a precision costs a trained network: any cost is let through.
        export_bundle(run, bundle, how=Lowering(precision, accept_loss=True))
    return read_bundle(bundle)


def network(layers: int) -> tuple[LanguageModel, LanguageModelConfig]:
    """Return the paper's network with random weights, or the first layers of it."""
    config = paper_124m().model
    assert isinstance(config, LanguageModelConfig)
    torch.manual_seed(0)
    config = replace(config, layers=layers)
    return LanguageModel(config).eval(), config


class Served:
    """A bundle's step graph on one thread, with slots of their own for each loop."""

    def __init__(self, bundle: Bundle) -> None:
        """Open the graph."""
        task = bundle.manifest.task
        assert isinstance(task, LanguageModelling)
        assert task.step is not None
        self.vocabulary, self.step = task.vocabulary, task.step
        kernel = choose_kernel("auto", task.step.graph.custom_ops, CPU)
        path = bundle.folder / task.step.graph.file
        self.session = StepSession(path, providers=[CPU], threads=1, kernel=kernel)
        self.weight_bytes = weight_bytes(bundle, task.step)

    def loop(self) -> GenerationLoop:
        """Return an engine's loop with empty slots."""
        slots = CacheSlots(self.step.cache, SLOTS, SLOT_TOKENS + 1)
        stepper = Stepper(self.session, self.step, self.vocabulary, slots)
        return GenerationLoop(stepper, None, GenerationLimits(slots=SLOTS, slot_tokens=SLOT_TOKENS))


def weight_bytes(bundle: Bundle, step: StepGraph) -> int:
    """Return how many bytes of weights a step has to read."""
    return sum((bundle.folder / file).stat().st_size for file in (step.graph.file, *step.graph.weights))


@contextmanager
def graph_clock() -> Iterator[list[float]]:
    """Count the CPU seconds that runs of the graph take, in the list's one number."""
    spent, run = [0.0], BoundRun.__call__

    def timed(self: BoundRun) -> None:
        start = time.process_time()
        run(self)
        spent[0] += time.process_time() - start

    BoundRun.__call__ = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        BoundRun.__call__ = run  # type: ignore[method-assign]


def ask(vocabulary: int, prompt: int, answer: int, sampling: SamplingParams, seed: int) -> GenerateRequest:
    """Return a request with a random prompt."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, prompt).tolist()
    return GenerateRequest(tuple(ids), sampling, max_tokens=answer, ignore_end=True)


def decode(served: Served, rows: int, context: int, sampling: SamplingParams, rounds: int) -> Figure:
    """Time steps of `rows` answers behind so much context."""
    loop = served.loop()
    answer = min(SLOT_TOKENS - context, 3 + rounds * STEPS)
    for row in range(rows):
        loop.submit(ask(served.vocabulary, context, answer, sampling, row), lambda event: None)
    while loop.counts.decode_steps < 2 or loop.counts.answer_tokens < 2 * rows:
        loop.turn()
    steps: list[float] = []
    graphs: list[float] = []
    with graph_clock() as spent:
        while loop.running == rows and len(steps) < rounds * STEPS:
            start, before = time.process_time(), spent[0]
            loop.turn()
            steps.append(1000 * (time.process_time() - start))
            graphs.append(1000 * (spent[0] - before))
    return Figure(statistics.median(steps), statistics.median(graphs), rows)


async def first_tokens(served: Served, company: int, rounds: int) -> float:
    """Return the wall milliseconds to the first token of a short prompt, beside so many growing answers; the median."""
    engine = GenerationEngine(served.loop())
    greedy = SAMPLING["greedy"]
    others = [
        engine.submit(ask(served.vocabulary, PROMPT, SLOT_TOKENS - PROMPT, greedy, 100 + row)) for row in range(company)
    ]
    for stream in others:
        await anext(stream)
    seconds = []
    for number in range(rounds):
        start = time.perf_counter()
        async with engine.submit(ask(served.vocabulary, PROMPT, 2, greedy, 1000 + number)) as stream:
            await anext(stream)
        seconds.append(1000 * (time.perf_counter() - start))
    for stream in others:
        stream.cancel()
    await engine.close()
    return statistics.median(seconds)


def bandwidth() -> float:
    """Return how many bytes per CPU second one thread reads from memory, at best of a few times."""
    array = np.ones(1 << 26, np.float32)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        array.max()
        best = min(best, time.process_time() - start)
    return array.nbytes / best


def torch_figures(rounds: int, layers: int) -> list[list[str]]:
    """Time torch's steps of the same weights, behind a short context."""
    torch.set_num_threads(1)
    model, config = network(layers)
    rows = []
    for name, compiled in (("torch eager", False), ("torch.compile", True)):
        print(f"timing {name} ...", file=sys.stderr)
        step = torch_step(model, Work(1, PROMPT, config.vocab_size), compiled=compiled)
        step()
        times = []
        for _ in range(rounds * STEPS):
            start = time.process_time()
            step()
            times.append(1000 * (time.process_time() - start))
        median = statistics.median(times)
        rows.append([name, "float32", "1", report.number(median), report.number(1000 / median), "", "", ""])
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the bundles are, or come to be")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"])
    parser.add_argument(
        "--layers", type=int, default=12, help="fewer only to see that everything runs; needs another DIR"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="time torch, eager and compiled, too")
    parser.add_argument("--out", type=Path, help="keep the tables in a file, too")
    options = parser.parse_args()
    rows, contexts, firsts, speed = [], [], [], bandwidth()
    for precision in options.precisions:
        served = Served(export(options.folder, precision, options.layers))
        for name, sampling in SAMPLING.items():
            one = 0.0
            for count in (1, SLOTS):
                print(f"timing {precision}, {name}, {count} rows ...", file=sys.stderr)
                found = decode(served, count, PROMPT, sampling, options.rounds)
                one = one or found.tokens_per_second
                read = served.weight_bytes / found.step * 1000
                rows.append(
                    [
                        f"engine, {name}",
                        precision,
                        str(count),
                        report.number(found.step),
                        f"{report.number(found.tokens_per_second)} ({found.tokens_per_second / one:.2f}x)",
                        f"{read / 1e9:.1f} GB/s ({read / speed:.0%})",
                        f"{found.python:.1%}",
                        report.number(found.step - found.graph),
                    ]
                )
        steps = [decode(served, 1, context, SAMPLING["greedy"], 1).step for context in CONTEXTS]
        contexts.append([precision, *map(report.number, steps)])
        idle, busy = (asyncio.run(first_tokens(served, others, 5 * options.rounds)) for others in (0, SLOTS - 1))
        firsts.append([precision, report.number(idle), report.number(busy), f"{busy / idle:.2f}"])
    if options.torch:
        rows += torch_figures(options.rounds, options.layers)
    head = ["what", "precision", "rows", "CPU ms a step", "tokens per CPU s", "weights read", "Python", "Python, ms"]
    beside = f"ms to the first token, {SLOTS - 1} others"
    parts = [
        f"- {report.today()}, {report.processor()}; one thread reads {speed / 1e9:.1f} GB/s",
        f"- {report.versions('onnxruntime', 'torch', 'numpy')}; prompts of {PROMPT} tokens, slots of {SLOT_TOKENS}",
        "",
        report.table(head, rows),
        "",
        report.table(["precision", *(f"CPU ms a step at {context}" for context in CONTEXTS)], contexts),
        "",
        report.table(["precision", f"ms to the first token of {PROMPT}, idle", beside, "ratio"], firsts),
    ]
    report.publish("\n".join(parts), options.out)


if __name__ == "__main__":
    main()
