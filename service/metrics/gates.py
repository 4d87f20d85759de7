"""Metrics of gate values."""

from prometheus_client import CollectorRegistry, Counter


class GateMetrics:
    """What answers about gates contained."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them at zero."""
        self.nonfinite = Counter(
            "ddl_gate_nonfinite",
            "Values of gate quantities that were answered as null because they are not finite.",
            ("model", "version"),
            registry=registry,
        )
