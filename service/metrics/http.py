"""Metrics of requests: how many, with what answer, how long."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper edges of the latency buckets, in seconds."""


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


class HttpMetrics:
    """Requests by route, method and status, whichever protocol they came by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
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
        self.in_flight = Level()
        Gauge("ddl_http_requests_in_flight", "Requests that are not answered yet.", registry=registry).set_function(
            lambda: self.in_flight.value
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
