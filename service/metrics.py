"""Every metric of the service: name, labels and buckets. Nothing else in the service knows Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper edges of the latency buckets, in seconds."""


# They would be a second series for each counter, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        """Create every metric at zero."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._registry = registry
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
        self.requests_in_flight = Gauge(
            "ddl_http_requests_in_flight", "Requests that are not answered yet.", registry=registry
        )
        self._queue_depth = Gauge("ddl_queue_depth", "Requests that wait for a worker.", registry=registry)
        self._runs_in_flight = Gauge("ddl_runs_in_flight", "Workers that are running a request.", registry=registry)
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
            "Time to check, open and warm up the model.",
            ("model", "version"),
            registry=registry,
        )
        self.gate_nonfinite = Counter(
            "ddl_gate_nonfinite",
            "Values of gate quantities that were answered as null because they are not finite.",
            ("model", "version"),
            registry=registry,
        )

    def watch_queue(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Read the queue's depth and the busy workers whenever somebody scrapes."""
        self._queue_depth.set_function(waiting)
        self._runs_in_flight.set_function(running)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the scrape's body and media type in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
