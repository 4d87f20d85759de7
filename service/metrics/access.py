"""Metrics of access: whom the guard refused, and whether its keys could be read."""

from prometheus_client import CollectorRegistry, Counter


class AccessMetrics:
    """What the guard and the keeper of its keys do."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self._refusals = Counter(
            "ddl_refusals", "Requests that the guard refused, by reason.", ("reason",), registry=registry
        )
        self.credentials_failures = Counter(
            "ddl_credentials_failures",
            "Looks at the file of keys or at the issuer's keys that failed; the old ones stay.",
            registry=registry,
        )

    def refused(self, reason: str) -> None:
        """Count a refusal of the guard."""
        self._refusals.labels(reason).inc()
