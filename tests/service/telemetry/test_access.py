import logging
from typing import Any

import pytest

from service.metrics import Metrics
from service.telemetry.access import LEAST_LOGGED, Access
from service.telemetry.ids import TraceParent

PARENT = TraceParent("0" * 31 + "1", "0" * 15 + "2", True)


class Spans:
    def __init__(self, trace_id: str | None = None) -> None:
        self.taken: list[dict[str, Any]] = []
        self.trace_id = trace_id

    def record(self, name: str, **what: Any) -> str | None:
        self.taken.append({"name": name, **what})
        return self.trace_id


def book(access: Access, **changed: Any) -> None:
    usual: dict[str, Any] = {
        "method": "POST",
        "route": "/v2/models/{name}/infer",
        "path": "/v2/models/tiny/infer",
        "status": 200,
        "seconds": 0.25,
        "request_id": "r1",
        "client": "192.0.2.1",
    }
    access.book(**usual | changed)


def fields(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("service.access", "request")
    return dict(record.__dict__["fields"])


def test_a_request_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with caplog.at_level(logging.INFO):
        book(Access(metrics), caller="anna", parent=PARENT)
    assert fields(caplog) == {
        "method": "POST",
        "path": "/v2/models/tiny/infer",
        "status": 200,
        "ms": 250.0,
        "client": "192.0.2.1",
        "caller": "anna",
        "request_id": "r1",
        "trace_id": PARENT.trace_id,
    }
    text = metrics.render("")[0].decode()
    assert 'ddl_http_requests_total{method="POST",route="/v2/models/{name}/infer",status="200"} 1.0' in text
    assert 'ddl_http_request_seconds_sum{method="POST",route="/v2/models/{name}/infer"} 0.25' in text


def test_without_a_parent_there_is_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        book(Access(Metrics()))
    assert "trace_id" not in fields(caplog)


def test_a_span_has_the_times_the_steps_and_the_standard_names() -> None:
    spans = Spans("abc")
    book(Access(Metrics(), spans), parent=PARENT, status=503, steps_ms={"queue": 1.5})
    (span,) = spans.taken
    assert span["name"] == "POST /v2/models/{name}/infer"
    assert span["end"] - span["start"] == pytest.approx(0.25, abs=1e-6)
    assert span["failed"] is True
    assert span["parent"] is PARENT
    assert span["steps_ms"] == {"queue": 1.5}
    assert span["attributes"]["http.response.status_code"] == 503
    assert span["attributes"]["http.route"] == "/v2/models/{name}/infer"


def test_the_line_names_the_trace_that_began_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        book(Access(Metrics(), Spans("abc")))
    assert fields(caplog)["trace_id"] == "abc"


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/metrics"])
def test_probes_are_counted_and_kept_quiet_unless_they_fail(path: str, caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans()
    access = Access(Metrics(), spans)
    with caplog.at_level(logging.INFO):
        book(access, path=path, route=path)
        assert not caplog.records
        assert not spans.taken
        book(access, path=path, route=path, status=503)
    assert fields(caplog)["status"] == 503


def test_what_the_client_invents_cannot_grow_metrics_or_lines(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    access = Access(metrics)
    with caplog.at_level(logging.INFO):
        for number in range(50):
            book(access, method="X" * 1000 + str(number), route="unmatched", path="/" + "y" * 9000)
    assert all(len(r.__dict__["fields"]["path"]) <= 200 for r in caplog.records)
    assert all(len(r.__dict__["fields"]["method"]) <= 16 for r in caplog.records)
    assert metrics.render("")[0].count(b"ddl_http_requests_total{") == 1


@pytest.mark.parametrize(("choice", "lines"), [("all", 2), ("errors", 1), ("off", 0)])
def test_lines_can_be_for_errors_alone(choice: str, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    access = Access(metrics, least_logged=LEAST_LOGGED[choice])
    with caplog.at_level(logging.INFO):
        book(access)
        book(access, status=404)
    assert len(caplog.records) == lines
    assert metrics.render("")[0].count(b"ddl_http_requests_total{") == 2
