"""All metrics of one application in one registry: where each part's come from, and how they are read."""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from service.metrics.access import AccessMetrics
from service.metrics.batches import BatchMetrics
from service.metrics.connections import ConnectionMetrics
from service.metrics.gates import GateMetrics
from service.metrics.generation import GenerationMetrics
from service.metrics.http import HttpMetrics
from service.metrics.models import ModelMetrics

# They would be a second series for each counter, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


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


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        """Create every metric at zero."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._registry = registry
        self.http = HttpMetrics(registry)
        self.connections = ConnectionMetrics(registry)
        self.access = AccessMetrics(registry)
        self.models = ModelMetrics(registry)
        self.batches = BatchMetrics(registry)
        self.gates = GateMetrics(registry)
        self.generation = GenerationMetrics(registry)

    def families(self) -> Iterator[Family]:
        """Read every metric, for those who send them elsewhere."""
        for found in self._registry.collect():
            samples = [Sample(sample.name, dict(sample.labels), float(sample.value)) for sample in found.samples]
            yield Family(found.name, found.documentation, found.type, samples)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the scrape's body and media type in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
