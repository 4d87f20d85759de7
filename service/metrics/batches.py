"""Metrics of batches and queues, read from the engine's own figures whenever somebody scrapes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper edges of the buckets of batch sizes, in rows."""


class ModelFigures(NamedTuple):
    """What the batches of one model version have come to.

    `requests` by outcome, `batches` are runs by their rows, `seconds` by step and summed over requests.
    """

    name: str
    version: str
    waiting: int
    running: int
    requests: Mapping[str, int]
    batches: Mapping[int, int]
    seconds: Mapping[str, float]


class BatchMetrics:
    """Queues of the service and batches of its models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self._registry = registry
        self._queue_depth = Gauge("ddl_queue_depth", "Requests that wait for a worker.", registry=registry)
        self._runs_in_flight = Gauge("ddl_runs_in_flight", "Workers that are running a request.", registry=registry)

    def watch_queue(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Read the queue's depth and the busy workers whenever somebody scrapes."""
        self._queue_depth.set_function(waiting)
        self._runs_in_flight.set_function(running)

    def watch_models(self, read: Callable[[], Iterable[ModelFigures]]) -> None:
        """Read the figures of every model whenever somebody scrapes: counting twice would cost each request."""
        self._registry.register(_ModelCollector(read))


class _ModelCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[ModelFigures]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "version")
        requests = CounterMetricFamily(
            "ddl_model_requests", "Requests to a model that have ended, by outcome.", labels=(*labels, "outcome")
        )
        seconds = CounterMetricFamily(
            "ddl_model_step_seconds", "Time that requests spent in each step.", labels=(*labels, "step")
        )
        batches = HistogramMetricFamily("ddl_model_batch_rows", "Rows of the batches that were run.", labels=labels)
        waiting = GaugeMetricFamily("ddl_model_waiting", "Requests that wait for a batch.", labels=labels)
        running = GaugeMetricFamily("ddl_model_running", "Batches that are running.", labels=labels)
        for model in self._read():
            named = (model.name, model.version)
            for outcome, count in model.requests.items():
                requests.add_metric((*named, outcome), count)
            for step, spent in model.seconds.items():
                seconds.add_metric((*named, step), spent)
            batches.add_metric(
                named, _cumulative(model.batches), sum(rows * runs for rows, runs in model.batches.items())
            )
            waiting.add_metric(named, model.waiting)
            running.add_metric(named, model.running)
        yield from (requests, seconds, batches, waiting, running)


def _cumulative(batches: Mapping[int, int]) -> list[tuple[str, float]]:
    edges: list[tuple[str, float]] = [(str(float(edge)), float(edge)) for edge in BATCH_ROWS]
    counted = [(name, float(sum(runs for rows, runs in batches.items() if rows <= edge))) for name, edge in edges]
    return [*counted, ("+Inf", float(sum(batches.values())))]
