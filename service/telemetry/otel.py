"""OpenTelemetry traces (extra `otel`): every finished request becomes a span, its steps become child spans.

Spans are made after the fact, from times that were measured anyway, so a request pays nothing while it runs. Standard
`OTEL_*` variables are honoured for what has no setting here: headers of the collector, resource attributes, proxies.
"""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from service import __version__
from service.telemetry.ids import TraceParent

TIMEOUT_SECONDS = 3.0
"""For one push, retries included; the end of the service waits for two of them at most."""

_NANOSECONDS = 1_000_000_000


def resource() -> Resource:
    """Describe this service; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win."""
    found = Resource.create({SERVICE_VERSION: __version__})
    unnamed = str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    return found.merge(Resource({SERVICE_NAME: "ddl-serve"})) if unnamed else found


class OtelSpans:
    """Sends finished requests to a collector, from a thread of its own; a collector that is away costs nobody."""

    def __init__(self, endpoint: str, ratio: float, exporter: SpanExporter | None = None) -> None:
        """Prepare to send to `endpoint` (`http://HOST:4318`).

        Args:
            endpoint: of OTLP over HTTP, without the path.
            ratio: part of the traces that begin here which are kept; a caller's decision is followed.
            exporter: takes the spans instead of the collector.
        """
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource(), shutdown_on_exit=False
        )
        chosen = exporter or OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=TIMEOUT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(chosen))
        self._tracer = self._provider.get_tracer("service", __version__)

    def record(
        self,
        name: str,
        *,
        start: float,
        end: float,
        parent: TraceParent | None,
        attributes: Mapping[str, str | int],
        steps_ms: Mapping[str, float],
        failed: bool,
    ) -> str | None:
        """Take one request; times are seconds since 1970. Returns the trace's id, None if it is not traced."""
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(_remote(parent)) if parent is not None else None,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=_nano(start),
        )
        if not span.is_recording():
            return None
        at = start
        for step, milliseconds in steps_ms.items():
            child = self._tracer.start_span(step, trace.set_span_in_context(span), start_time=_nano(at))
            at += milliseconds / 1000
            child.end(_nano(at))
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(_nano(end))
        return f"{span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what is left, for at most the exporter's own timeout."""
        self._provider.shutdown()


def _remote(parent: TraceParent) -> NonRecordingSpan:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    context = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return NonRecordingSpan(context)


def _nano(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)
