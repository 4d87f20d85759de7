"""Metrics of the repository: which versions answer, how they are computed, what was refused."""

import contextlib
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge


class ModelMetrics:
    """Versions of models, from their opening to their end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self._series: dict[tuple[str, str], list[tuple[Gauge, tuple[str, ...]]]] = {}
        self._kernel_info = Gauge(
            "ddl_kernel_info",
            "1 for the way the delta rewrites of a model are computed, and why.",
            ("model", "version", "path", "reason"),
            registry=registry,
        )
        self._kernel_nodes = Gauge(
            "ddl_kernel_nodes",
            "Nodes of a model's graph that take a path, by custom op.",
            ("model", "version", "op", "path"),
            registry=registry,
        )
        self._ready = Gauge(
            "ddl_model_ready", "1 if the model answers, 0 if it was refused.", ("model", "version"), registry=registry
        )
        self._load_seconds = Gauge(
            "ddl_model_load_seconds",
            "Time to fetch, check, open and warm up the model.",
            ("model", "version"),
            registry=registry,
        )
        self._memory_bytes = Gauge(
            "ddl_model_memory_bytes",
            "Estimated memory of the model: its graph and weights, for each of its sessions.",
            ("model", "version"),
            registry=registry,
        )
        self._loads = Counter(
            "ddl_model_loads", "Attempts to load a version, by outcome.", ("model", "outcome"), registry=registry
        )
        self.repository_failures = Counter(
            "ddl_repository_failures", "Looks at the model repository that failed.", registry=registry
        )

    def opened(
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
        self.closed(name, version)
        labels = (name, version)
        values: list[tuple[Gauge, tuple[str, ...], float]] = [
            (self._load_seconds, labels, load_seconds),
            (self._memory_bytes, labels, memory_bytes),
            (self._kernel_info, (*labels, *kernel), 1),
            *((self._kernel_nodes, (*labels, op, kernel[0]), count) for op, count in nodes.items()),
        ]
        for gauge, series, value in values:
            gauge.labels(*series).set(value)
        self._series[labels] = [(gauge, series) for gauge, series, _ in values]
        self._ready.labels(*labels).set(1)
        self._loads.labels(name, "ready").inc()

    def refused(self, name: str, version: str, *, answers: bool) -> None:
        """A version could not be opened; it may still answer with what it held before."""
        self._loads.labels(name, "refused").inc()
        self._ready.labels(name, version).set(answers)

    def closed(self, name: str, version: str) -> None:
        """A version neither answers nor should: its series end."""
        for gauge, series in self._series.pop((name, version), []):
            gauge.remove(*series)
        with contextlib.suppress(KeyError):
            self._ready.remove(name, version)
