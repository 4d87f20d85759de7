"""Traces and metrics as a collector would receive them."""

import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common._internal.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.metrics import SECONDS, Metrics
from service.settings import Settings
from service.telemetry.ids import TraceParent
from service.telemetry.open import Telemetry
from service.telemetry.otel import OtelSpans
from service.telemetry.otel_metrics import MetricsPush

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def spans_of(ratio: float = 1.0, **request: Any) -> tuple[str | None, list[ReadableSpan]]:
    memory = InMemorySpanExporter()
    spans = OtelSpans("http://127.0.0.1:1", ratio, memory)
    usual: dict[str, Any] = {
        "start": 1000.0,
        "end": 1000.5,
        "parent": None,
        "attributes": {"http.route": "/x"},
        "steps_ms": {},
        "failed": False,
    }
    trace_id = spans.record("GET /x", **usual | request)
    spans.close()
    return trace_id, list(memory.get_finished_spans())


def test_a_request_is_a_server_span_with_its_times() -> None:
    trace_id, (span,) = spans_of()
    assert (span.name, span.kind.name) == ("GET /x", "SERVER")
    assert (span.start_time, span.end_time) == (1_000_000_000_000, 1_000_500_000_000)
    assert span.attributes == {"http.route": "/x"}
    assert span.parent is None
    assert span.context is not None
    assert trace_id == f"{span.context.trace_id:032x}"
    assert span.resource.attributes["service.name"] == "ddl-serve"


def test_steps_are_child_spans_one_after_the_other() -> None:
    _, (queue, model, request) = spans_of(steps_ms={"queue": 100.0, "model": 250.0})
    assert (queue.name, model.name) == ("queue", "model")
    assert (queue.start_time, queue.end_time) == (1_000_000_000_000, 1_000_100_000_000)
    assert (model.start_time, model.end_time) == (1_000_100_000_000, 1_000_350_000_000)
    assert request.context is not None
    assert {span.parent and span.parent.span_id for span in (queue, model)} == {request.context.span_id}


def test_a_request_joins_its_callers_trace() -> None:
    trace_id, (span,) = spans_of(0.0, parent=TraceParent(TRACE, SPAN, True))
    assert trace_id == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN


def test_the_callers_decision_not_to_record_is_followed() -> None:
    assert spans_of(1.0, parent=TraceParent(TRACE, SPAN, False)) == (None, [])


def test_the_ratio_decides_for_traces_that_begin_here() -> None:
    assert spans_of(0.0) == (None, [])


def test_a_failure_is_marked() -> None:
    _, (span,) = spans_of(failed=True)
    assert span.status.status_code.name == "ERROR"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    received: dict[str, list[bytes]]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert "Content-Encoding" not in self.headers
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector(("127.0.0.1", 0), Handler)
    server.received = {}
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_gets_spans_and_metrics(collector: Collector) -> None:
    metrics = Metrics()
    settings = Settings(otlp_endpoint=f"http://127.0.0.1:{collector.server_address[1]}/")
    telemetry = Telemetry(settings, metrics)
    telemetry.start()
    telemetry.access.book(
        method="GET", route="/v2", path="/v2", status=200, seconds=0.003, request_id="r1", client="192.0.2.1"
    )
    telemetry.close()
    (body,) = collector.received["/v1/traces"]
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (span,) = resource.scope_spans[0].spans
    assert span.name == "GET /v2"
    assert {a.key: a.value.string_value for a in span.attributes}["ddl.request_id"] == "r1"
    (body,) = collector.received["/v1/metrics"]
    (pushed,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    names = {metric.name for metric in pushed.scope_metrics[0].metrics}
    assert {"ddl_http_requests_total", "ddl_http_request_seconds", "process_resident_memory_bytes"} <= names


def test_pushed_metrics_have_the_names_and_numbers_that_prometheus_sees() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.003, 0.003, 99.0):
        metrics.http.answered("/v2", "GET", 200, seconds)
    push = MetricsPush(metrics.families, "http://127.0.0.1:1")
    encoded = encode_metrics(push.data())
    found = {metric.name: metric for metric in encoded.resource_metrics[0].scope_metrics[0].metrics}
    (count,) = found["ddl_http_requests_total"].sum.data_points
    assert count.as_double == 4
    assert {a.key: a.value.string_value for a in count.attributes} == {"route": "/v2", "method": "GET", "status": "200"}
    assert found["ddl_http_requests_total"].sum.is_monotonic
    (duration,) = found["ddl_http_request_seconds"].histogram.data_points
    assert duration.count == 4
    assert math.isclose(duration.sum, 99.0065)
    assert list(duration.explicit_bounds) == list(SECONDS)
    assert list(duration.bucket_counts) == [1, 0, 2, *[0] * (len(SECONDS) - 3), 1]
    assert found["ddl_http_requests_in_flight"].gauge.data_points[0].as_double == 0


def test_a_collector_that_is_away_costs_the_end_a_moment_and_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.telemetry.otel.TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr("service.telemetry.otel_metrics.TIMEOUT_SECONDS", 0.3)
    telemetry = Telemetry(Settings(otlp_endpoint="http://127.0.0.1:1"), Metrics())
    telemetry.start()
    telemetry.access.book(method="GET", route="/v2", path="/v2", status=200, seconds=0.1, request_id="r", client="-")
    begin = time.monotonic()
    telemetry.close()
    assert time.monotonic() - begin < 5
    assert any("Failed to export" in record.getMessage() for record in caplog.records)


def test_without_a_collector_nothing_is_imported_or_started() -> None:
    before = threading.active_count()
    telemetry = Telemetry(Settings(), Metrics())
    telemetry.start()
    telemetry.close()
    assert threading.active_count() == before
