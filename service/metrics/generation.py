"""Metrics of answers that grow token by token, read from the engines' own figures whenever somebody scrapes."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

WAIT_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper edges of the buckets of times until something begins, in seconds."""
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""Upper edges of the buckets of times between two tokens of an answer, in seconds."""
STEP_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper edges of the buckets of answers that grow in one step."""


class Spread:
    """Counts by bucket; observing costs a microsecond and no lock: one thread writes."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        """Start empty; `edges` are upper ones, growing."""
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper edge, as Prometheus wants them."""
        names = [*(str(float(edge)) for edge in self.edges), "+Inf"]
        sums, so_far = [], 0
        for count in self.counts:
            so_far += count
            sums.append(float(so_far))
        return list(zip(names, sums, strict=True))


class GenerationFigures(NamedTuple):
    """What the engine of one language model has come to; `counters` and `gauges` by the names below without prefix."""

    name: str
    version: str
    answers: Mapping[str, int]
    tokens: Mapping[str, int]
    steps: Mapping[str, int]
    gauges: Mapping[str, float]
    spreads: Mapping[str, Spread]


GAUGES = {
    "waiting": "Answers that wait for a slot.",
    "running": "Answers that have a slot.",
    "slots": "Answers that can grow at once.",
    "cached_tokens": "Tokens in the cache, of answers that grow and of texts that may be needed again.",
    "cache_tokens": "Tokens that the cache has room for.",
}
SPREADS = {
    "queue_seconds": "Time from the request to a slot.",
    "first_token_seconds": "Time from the request to the first token of the answer.",
    "token_seconds": "Time between two tokens of an answer.",
    "step_rows": "Answers that grew in one step.",
}


class GenerationMetrics:
    """Engines of language models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Keep the registry."""
        self._registry = registry

    def watch(self, read: Callable[[], Iterable[GenerationFigures]]) -> None:
        """Read the figures of every engine whenever somebody scrapes: counting twice would cost each token."""
        self._registry.register(_GenerationCollector(read))


class _GenerationCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[GenerationFigures]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "version")
        answers = CounterMetricFamily(
            "ddl_generation_answers", "Answers that have ended, by outcome.", labels=(*labels, "outcome")
        )
        tokens = CounterMetricFamily(
            "ddl_generation_tokens",
            "Tokens of prompts, those of them from the cache, of answers.",
            labels=(*labels, "kind"),
        )
        steps = CounterMetricFamily("ddl_generation_steps", "Runs of the step graph.", labels=(*labels, "kind"))
        gauges = {
            name: GaugeMetricFamily(f"ddl_generation_{name}", text, labels=labels) for name, text in GAUGES.items()
        }
        spreads = {
            name: HistogramMetricFamily(f"ddl_generation_{name}", text, labels=labels) for name, text in SPREADS.items()
        }
        for model in self._read():
            named = (model.name, model.version)
            for family, counts in ((answers, model.answers), (tokens, model.tokens), (steps, model.steps)):
                for kind, count in counts.items():
                    family.add_metric((*named, kind), count)
            for name, value in model.gauges.items():
                gauges[name].add_metric(named, value)
            for name, spread in model.spreads.items():
                spreads[name].add_metric(named, spread.buckets(), spread.total)
        yield from (answers, tokens, steps, *gauges.values(), *spreads.values())
