"""Metrics of requests: how many, with what answer, how long."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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


class _Durations:
    """A histogram in the making: how many in each bucket, the last beyond the largest edge, and their sum."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0


class _Series:
    """Requests of one route, method and status; those of all statuses share the durations."""

    __slots__ = ("count", "durations")

    def __init__(self, durations: _Durations) -> None:
        self.count = 0
        self.durations = durations


class HttpMetrics(Collector):
    """Requests by route, method and status, whichever protocol they came by.

    They are counted in plain numbers, on the event loop alone, and turned into metrics when somebody asks: the locks of
    Prometheus' own counters cost more than all the counting. There are as many series as routes, methods and statuses.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._durations: dict[tuple[str, str], _Durations] = {}
        self.in_flight = Level()
        Gauge("ddl_http_requests_in_flight", "Requests that are not answered yet.", registry=registry).set_function(
            lambda: self.in_flight.value
        )
        registry.register(self)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        series = self._series.get((route, method, status))
        if series is None:
            durations = self._durations.setdefault((route, method), _Durations())
            series = self._series[route, method, status] = _Series(durations)
        series.count += 1
        series.durations.seconds += seconds
        series.durations.buckets[bisect_left(SECONDS, seconds)] += 1

    def count(self, route: str, method: str, status: int) -> int:
        """Return how many requests have ended so."""
        series = self._series.get((route, method, status))
        return 0 if series is None else series.count

    def collect(self) -> Iterator[Metric]:
        """Turn the numbers into metrics."""
        requests = CounterMetricFamily("ddl_http_requests", "Requests answered.", labels=("route", "method", "status"))
        for (route, method, status), series in list(self._series.items()):
            requests.add_metric((route, method, str(status)), series.count)
        durations = HistogramMetricFamily(
            "ddl_http_request_seconds",
            "Time from the request's head to the answer's last byte.",
            labels=("route", "method"),
        )
        for labels, found in list(self._durations.items()):
            cumulative = accumulate(found.buckets)
            edges = [*(str(edge) for edge in SECONDS), "+Inf"]
            durations.add_metric(labels, list(zip(edges, cumulative, strict=True)), found.seconds)
        yield from (requests, durations)
