"""Telemetry as the settings ask for it."""

from collections.abc import Callable

from service.metrics import Metrics
from service.settings import InvalidSettings, Settings
from service.telemetry.access import LEAST_LOGGED, Access


class Telemetry:
    """What books requests, and what sends them elsewhere."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Prepare.

        Raises:
            InvalidSettings: a collector is set, but the extra `otel` is not installed.
        """
        self._starts: list[Callable[[], None]] = []
        self._closes: list[Callable[[], None]] = []
        least = LEAST_LOGGED[settings.access_log]
        if settings.otlp_endpoint is None:
            self.access = Access(metrics, least_logged=least)
            return
        try:
            from service.telemetry.otel import OtelSpans
            from service.telemetry.otel_metrics import MetricsPush
        except ImportError as error:
            raise InvalidSettings(
                "otlp_endpoint needs the extra otel: pip install 'deep-delta-serving[otel]'"
            ) from error
        spans = OtelSpans(settings.otlp_endpoint, settings.trace_ratio)
        push = MetricsPush(metrics.families, settings.otlp_endpoint)
        self.access = Access(metrics, spans, least_logged=least)
        self._starts = [push.start]
        self._closes = [spans.close, push.close]

    def start(self) -> None:
        """Begin to send."""
        for start in self._starts:
            start()

    def close(self) -> None:
        """Send what is left; may block for some seconds."""
        for close in self._closes:
            close()
