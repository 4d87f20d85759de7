"""Every metric of the service: name, labels and buckets. Nothing else in the service knows Prometheus."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper edges of the latency buckets, in seconds."""

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper edges of the buckets of batch sizes, in rows."""


# They would be a second series for each counter, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


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


class Sample(NamedTuple):
    """One number of a family."""

    name: str
    labels: dict[str, str]
    value: float


class Family(NamedTuple):
    """One metric with all its label values; `kind` is Prometheus' word: counter, gauge, histogram."""

    name: str
    help: str
    kind: str
    samples: list[Sample]


class Level:
    """A number that goes up and down with every request, on the event loop alone: it needs no lock."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        """Start at zero."""
        self.value = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1

    def dec(self) -> None:
        """One less."""
        self.value -= 1


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        """Create every metric at zero."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._registry = registry
        # Looking labels up costs more than counting; there are as many series as routes, methods and statuses.
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.requests = Counter(
            "ddl_http_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "ddl_http_request_seconds",
            "Time from the request's head to the answer's last byte.",
            ("route", "method"),
            buckets=SECONDS,
            registry=registry,
        )
        self.requests_in_flight = Level()
        Gauge("ddl_http_requests_in_flight", "Requests that are not answered yet.", registry=registry).set_function(
            lambda: self.requests_in_flight.value
        )
        self._queue_depth = Gauge("ddl_queue_depth", "Requests that wait for a worker.", registry=registry)
        self._runs_in_flight = Gauge("ddl_runs_in_flight", "Workers that are running a request.", registry=registry)
        self._model_series: dict[tuple[str, str], list[tuple[Gauge, tuple[str, ...]]]] = {}
        self.kernel_info = Gauge(
            "ddl_kernel_info",
            "1 for the way the delta rewrites of a model are computed, and why.",
            ("model", "version", "path", "reason"),
            registry=registry,
        )
        self.kernel_nodes = Gauge(
            "ddl_kernel_nodes",
            "Nodes of a model's graph that take a path, by custom op.",
            ("model", "version", "op", "path"),
            registry=registry,
        )
        self.model_ready = Gauge(
            "ddl_model_ready", "1 if the model answers, 0 if it was refused.", ("model", "version"), registry=registry
        )
        self.model_load_seconds = Gauge(
            "ddl_model_load_seconds",
            "Time to fetch, check, open and warm up the model.",
            ("model", "version"),
            registry=registry,
        )
        self.model_memory_bytes = Gauge(
            "ddl_model_memory_bytes",
            "Estimated memory of the model: its graph and weights, for each of its sessions.",
            ("model", "version"),
            registry=registry,
        )
        self.model_loads = Counter(
            "ddl_model_loads", "Attempts to load a version, by outcome.", ("model", "outcome"), registry=registry
        )
        self.repository_failures = Counter(
            "ddl_repository_failures", "Looks at the model repository that failed.", registry=registry
        )
        self.gate_nonfinite = Counter(
            "ddl_gate_nonfinite",
            "Values of gate quantities that were answered as null because they are not finite.",
            ("model", "version"),
            registry=registry,
        )

        self.connections_refused = Counter(
            "ddl_connections_refused",
            "Connections that were closed because of what their client did, by reason.",
            ("reason",),
            registry=registry,
        )
        self._connections = Gauge("ddl_connections", "Connections that are open.", registry=registry)
        self._refusals = Counter(
            "ddl_refusals", "Requests that the guard refused, by reason.", ("reason",), registry=registry
        )
        self.credentials_failures = Counter(
            "ddl_credentials_failures",
            "Looks at the file of keys or at the issuer's keys that failed; the old ones stay.",
            registry=registry,
        )

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        series = self._series.get((route, method, status))
        if series is None:
            series = (self.requests.labels(route, method, str(status)), self.request_seconds.labels(route, method))
            self._series[route, method, status] = series
        count, duration = series
        count.inc()
        duration.observe(seconds)

    def model_opened(
        self,
        name: str,
        version: str,
        *,
        load_seconds: float,
        memory_bytes: int,
        kernel: tuple[str, str],
        nodes: Mapping[str, int],
    ) -> None:
        """A version answers: `kernel` is the path of its custom ops and the reason, `nodes` their numbers by op."""
        self.model_closed(name, version)
        labels = (name, version)
        values: list[tuple[Gauge, tuple[str, ...], float]] = [
            (self.model_load_seconds, labels, load_seconds),
            (self.model_memory_bytes, labels, memory_bytes),
            (self.kernel_info, (*labels, *kernel), 1),
            *((self.kernel_nodes, (*labels, op, kernel[0]), count) for op, count in nodes.items()),
        ]
        for gauge, series, value in values:
            gauge.labels(*series).set(value)
        self._model_series[labels] = [(gauge, series) for gauge, series, _ in values]
        self.model_ready.labels(*labels).set(1)
        self.model_loads.labels(name, "ready").inc()

    def model_refused(self, name: str, version: str, *, answers: bool) -> None:
        """A version could not be opened; it may still answer with what it held before."""
        self.model_loads.labels(name, "refused").inc()
        self.model_ready.labels(name, version).set(answers)

    def model_closed(self, name: str, version: str) -> None:
        """A version neither answers nor should: its series end."""
        for gauge, series in self._model_series.pop((name, version), []):
            gauge.remove(*series)
        with contextlib.suppress(KeyError):
            self.model_ready.remove(name, version)

    def refused(self, reason: str) -> None:
        """Count a refusal of the guard."""
        self._refusals.labels(reason).inc()

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Read how many connections are open whenever somebody scrapes."""
        self._connections.set_function(count)

    def watch_queue(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Read the queue's depth and the busy workers whenever somebody scrapes."""
        self._queue_depth.set_function(waiting)
        self._runs_in_flight.set_function(running)

    def watch_models(self, read: Callable[[], Iterable[ModelFigures]]) -> None:
        """Read the figures of every model whenever somebody scrapes: counting twice would cost each request."""
        self._registry.register(_ModelCollector(read))

    def families(self) -> Iterator[Family]:
        """Read every metric, for those who send them elsewhere."""
        for found in self._registry.collect():
            samples = [Sample(sample.name, dict(sample.labels), sample.value) for sample in found.samples]
            yield Family(found.name, found.documentation, found.type, samples)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the scrape's body and media type in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


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
