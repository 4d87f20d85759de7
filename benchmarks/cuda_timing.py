"""Time on the card: recorded graphs, interleaved rounds, and a copy of as many bytes beside them."""

import statistics
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]

ROUNDS = 11
ROUND_SECONDS = 0.01


def record(run: Run, repeats: int) -> torch.cuda.CUDAGraph:
    """Record repetitions of a run, so that nothing but the card takes time; a run that waits for the card fails."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, loads modules, fills caches of memory
        run()
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return graph


def replay_seconds(graph: torch.cuda.CUDAGraph) -> float:
    """Return the seconds that the card takes for a recorded graph."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def medians(runs: Mapping[str, Run]) -> dict[str, float]:
    """Return the median seconds of one run of each form, over rounds in which all take their turn."""
    graphs, counts = {}, {}
    for name, run in runs.items():
        once = record(run, 1)
        replay_seconds(once)
        counts[name] = max(1, min(200, int(ROUND_SECONDS / max(replay_seconds(once), 1e-6))))
        graphs[name] = record(run, counts[name])
        replay_seconds(graphs[name])
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            samples[name].append(replay_seconds(graph) / counts[name])
    return {name: statistics.median(values) for name, values in samples.items()}


def copy_run(size: int) -> Run:
    """Return a copy that reads and writes `size` bytes together."""
    source = torch.randint(0, 255, (size // 2,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
