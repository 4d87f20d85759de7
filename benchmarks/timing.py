"""Interleaved rounds of CPU time: whatever else the machine does falls on all forms alike."""

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks import report

Run = Callable[[], object]

ROUNDS = 15
ROUND_SECONDS = 0.004


def repeat(run: Run, count: int) -> float:
    """Return the CPU seconds of one of `count` runs."""
    start = time.process_time()
    for _ in range(count):
        run()
    return (time.process_time() - start) / count


def measure(runs: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return the seconds of each form in each round."""
    counts = {name: max(1, int(ROUND_SECONDS / max(repeat(run, 3), 1e-7))) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(repeat(run, counts[name]))
    return samples


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each form, in seconds."""
    return {name: statistics.median(values) for name, values in samples.items()}


def cell(samples: list[float]) -> str:
    """Return a median in microseconds with half its interquartile range."""
    median = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4)
    return f"{report.number(median * 1e6)} ± {(high - low) / 2 / median:.0%}"
