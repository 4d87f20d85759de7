"""The service's metrics pushed to an OpenTelemetry collector (extra `otel`), under the names that Prometheus sees."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from service import __version__
from service.metrics import Family
from service.telemetry.otel import TIMEOUT_SECONDS, resource

_logger = logging.getLogger(__name__)

PERIOD_SECONDS = 30.0
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class MetricsPush:
    """Pushes every half minute, and once more at the end, from a thread of its own."""

    def __init__(
        self, families: Callable[[], Iterable[Family]], endpoint: str, exporter: MetricExporter | None = None
    ) -> None:
        """Prepare to read `families` and send them to `endpoint` (`http://HOST:4318`), or to `exporter`."""
        self._families = families
        self._exporter = exporter or OTLPMetricExporter(endpoint.rstrip("/") + "/v1/metrics", timeout=TIMEOUT_SECONDS)
        self._resource = resource()
        self._started = time.time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otel-metrics", daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def close(self) -> None:
        """Push a last time and stop."""
        self._stop.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while True:
            stopped = self._stop.wait(PERIOD_SECONDS)
            try:
                self._exporter.export(self.data())
            except Exception:  # a push that failed must not end the next ones
                _logger.exception("metrics not pushed")
            if stopped:
                return

    def data(self) -> MetricsData:
        """Return all metrics as of now."""
        now = time.time_ns()
        metrics = [self._metric(family, now) for family in self._families()]
        scope = ScopeMetrics(InstrumentationScope("service", __version__), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _metric(self, family: Family, now: int) -> Metric:
        if family.kind == "histogram":
            return Metric(family.name, family.help, None, Histogram(self._distributions(family, now), _CUMULATIVE))
        points = [
            NumberDataPoint(sample.labels, self._started, now, sample.value)
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        if family.kind == "counter":
            return Metric(family.name + "_total", family.help, None, Sum(points, _CUMULATIVE, is_monotonic=True))
        return Metric(family.name, family.help, None, Gauge(points))

    def _distributions(self, family: Family, now: int) -> Sequence[HistogramDataPoint]:
        found: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        sums: dict[tuple[tuple[str, str], ...], float] = {}
        for sample in family.samples:
            labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
            if sample.name.endswith("_bucket"):
                found.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
            elif sample.name.endswith("_sum"):
                sums[labels] = sample.value
        return [self._distribution(labels, sorted(edges), sums[labels], now) for labels, edges in found.items()]

    def _distribution(
        self, labels: tuple[tuple[str, str], ...], edges: list[tuple[float, float]], total: float, now: int
    ) -> HistogramDataPoint:
        """Turn Prometheus' cumulative buckets into single ones; the last edge, infinity, has no name in OTLP."""
        cumulative = [0, *(int(count) for _, count in edges)]
        return HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=self._started,
            time_unix_nano=now,
            count=cumulative[-1],
            sum=total,
            bucket_counts=[after - before for before, after in pairwise(cumulative)],
            explicit_bounds=[edge for edge, _ in edges[:-1]],
            min=None,  # type: ignore[arg-type]  # OTLP may leave them out, and Prometheus does not keep them
            max=None,  # type: ignore[arg-type]
        )
