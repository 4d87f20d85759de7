"""Metrics of gate values: of what is answered, and of the live statistics, which are read whenever somebody scrapes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.metrics.http import SECONDS

FORMATS = ("json", "safetensors")
OUTCOMES = ("ok", "refused", "busy", "late", "gone", "failed")


class SiteFigures(NamedTuple):
    """The gates of one site: cumulative counts by upper edge, `+Inf` last; tokens by regime and by saturated side.

    `drift` is the distance from the reference and its threshold, None where they are not compared.
    """

    layer: int
    sublayer: str
    buckets: Sequence[tuple[str, float]]
    total: float
    regimes: Sequence[tuple[str, int]]
    saturated: Sequence[tuple[str, int]]
    drift: tuple[float, float] | None


class GateFigures(NamedTuple):
    """The live statistics of one model version; `statuses` holds 1 for the one that is right."""

    name: str
    version: str
    runs: int
    sequences: int
    nonfinite: int
    statuses: Sequence[tuple[str, int]]
    sites: Sequence[SiteFigures]


class GateMetrics:
    """What answers about gates contained, and what the gates of ordinary traffic are like."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self._registry = registry
        self.nonfinite = Counter(
            "ddl_gate_nonfinite",
            "Values of gate quantities that were answered as null because they are not finite.",
            ("model", "version"),
            registry=registry,
        )
        self.requests = Counter(
            "ddl_gates_requests",
            "Traces, sweeps and comparisons by the form of the answer and by what became of them.",
            ("format", "outcome"),
            registry=registry,
        )
        for form in FORMATS:
            for outcome in OUTCOMES:
                self.requests.labels(form, outcome)
        self.capture_seconds = Histogram(
            "ddl_gates_capture_seconds",
            "Time of a trace, sweep or comparison in its worker: runs of the graph, closed forms and reductions.",
            ("model", "version"),
            buckets=SECONDS,
            registry=registry,
        )

    def watch_live(self, read: Callable[[], Iterable[GateFigures]]) -> None:
        """Read the live statistics of every model whenever somebody scrapes."""
        self._registry.register(_LiveCollector(read))


class _LiveCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[GateFigures]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        model = ("model", "version")
        site = (*model, "layer", "sublayer")
        runs = CounterMetricFamily("ddl_gate_live_runs", "Runs whose gates were looked at.", labels=model)
        sequences = CounterMetricFamily(
            "ddl_gate_live_sequences", "Texts or images whose gates were looked at.", labels=model
        )
        nonfinite = CounterMetricFamily(
            "ddl_gate_live_nonfinite", "Gates of ordinary traffic that are not finite.", labels=model
        )
        status = GaugeMetricFamily(
            "ddl_gate_drift_status",
            "1 for what the last hour's gates are beside the reference's.",
            labels=(*model, "status"),
        )
        beta = HistogramMetricFamily("ddl_gate_beta", "Gates of ordinary traffic, sampled.", labels=site)
        regimes = CounterMetricFamily(
            "ddl_gate_regime_tokens", "Sampled tokens by the regime of their gate.", labels=(*site, "regime")
        )
        saturated = CounterMetricFamily(
            "ddl_gate_saturated_tokens",
            "Sampled tokens with a gate below 0.01 or above 1.99.",
            labels=(*site, "side"),
        )
        w1 = GaugeMetricFamily(
            "ddl_gate_drift_w1",
            "Distance of the last hour's gates from the reference's, in beta.",
            labels=site,
        )
        threshold = GaugeMetricFamily(
            "ddl_gate_drift_threshold", "Distance that chance exceeds once in a thousand windows.", labels=site
        )
        for figures in self._read():
            named = (figures.name, figures.version)
            runs.add_metric(named, figures.runs)
            sequences.add_metric(named, figures.sequences)
            nonfinite.add_metric(named, figures.nonfinite)
            for word, value in figures.statuses:
                status.add_metric((*named, word), value)
            for row in figures.sites:
                place = (*named, str(row.layer), row.sublayer)
                beta.add_metric(place, list(row.buckets), row.total)
                for regime, count in row.regimes:
                    regimes.add_metric((*place, regime), count)
                for side, count in row.saturated:
                    saturated.add_metric((*place, side), count)
                if row.drift is not None:
                    w1.add_metric(place, row.drift[0])
                    threshold.add_metric(place, row.drift[1])
        yield from (runs, sequences, nonfinite, status, beta, regimes, saturated, w1, threshold)
