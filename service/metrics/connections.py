"""Metrics of connections: how many are open, how many were closed on a client."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class ConnectionMetrics:
    """Connections over TCP."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self._refused = Counter(
            "ddl_connections_refused",
            "Connections that were closed because of what their client did, by reason.",
            ("reason",),
            registry=registry,
        )
        self._open = Gauge("ddl_connections", "Connections that are open.", registry=registry)

    def refused(self, reason: str) -> None:
        """Count a connection that was closed on its client."""
        self._refused.labels(reason).inc()

    def watch(self, count: Callable[[], int]) -> None:
        """Read how many connections are open whenever somebody scrapes."""
        self._open.set_function(count)
