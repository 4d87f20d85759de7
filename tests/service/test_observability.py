import json
import logging
import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.logs import LineFormatter
from service.metrics import SECONDS
from tests.service.conftest import Client


def samples(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(client: Client, name: str, **labels: str) -> float:
    return samples(client).get((name, tuple(sorted(labels.items()))), 0.0)


def test_requests_are_counted_by_template_and_not_by_path(serve: Any) -> None:
    client = serve()
    client.get("/v2/models/tiny")
    client.get("/v2/models/nix")
    client.get("/v2/models/naught")
    client.get("/some/where")
    client.request("BREW", "/v2")
    counted = {
        dict(labels)["route"]: number
        for (name, labels), number in samples(client).items()
        if name == "ddl_http_requests_total" and dict(labels)["status"] == "404"
    }
    assert counted == {"/v2/models/{name}": 2, "unmatched": 1}
    assert value(client, "ddl_http_requests_total", method="other", route="/v2", status="405") == 1
    assert value(client, "ddl_http_request_seconds_count", method="GET", route="/v2/models/{name}") == 3


def test_a_request_in_flight_is_seen(client: Client) -> None:
    assert value(client, "ddl_http_requests_in_flight") == 1  # the scrape itself
    assert value(client, "ddl_queue_depth") == 0


def test_latency_has_the_documented_buckets(client: Client) -> None:
    client.get("/v2")
    edges = [
        dict(labels)["le"]
        for (name, labels) in samples(client)
        if name == "ddl_http_request_seconds_bucket"
        and (dict(labels)["route"], dict(labels)["method"]) == ("/v2", "GET")
    ]
    assert sorted(float(edge) for edge in edges) == [*SECONDS, float("inf")]


def test_each_model_tells_its_kernel_and_load_time(serve: Any) -> None:
    client = serve(kernel_library="off")
    labels = {"model": "tiny", "version": "1"}
    assert value(client, "ddl_kernel_info", path="plain", reason="switched off", **labels) == 1
    assert value(client, "ddl_kernel_nodes", op="DeltaRewrite", path="plain", **labels) == 2
    assert value(client, "ddl_model_ready", **labels) == 1
    assert 0 < value(client, "ddl_model_load_seconds", **labels) < 60


def test_the_process_is_measured(client: Client) -> None:
    assert value(client, "process_resident_memory_bytes") > 1e6


def test_openmetrics_comes_where_it_is_asked_for(client: Client) -> None:
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    asked = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")


def test_applications_do_not_share_their_metrics(serve: Any) -> None:
    one, other = serve(), serve()
    one.get("/v2")
    assert value(one, "ddl_http_requests_total", method="GET", route="/v2", status="200") == 1
    assert value(other, "ddl_http_requests_total", method="GET", route="/v2", status="200") == 0


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.INFO, __file__, 1, message, None, None)
    made.created = 1767225600.25
    made.__dict__["fields"] = fields
    return made


def test_a_record_is_one_line_of_keys_and_values() -> None:
    line = LineFormatter().format(record("request", path="/v2", status=200, ms=1.23456, reason="two words"))
    assert line == ('2026-01-01T00:00:00.250Z INFO service.x request path=/v2 status=200 ms=1.235 reason="two words"')


@pytest.mark.parametrize("text", ["a\nb", "a\r\nINFO forged", "\x1b[31m", 'quo"te', "", "a=b c"])
def test_no_value_can_break_or_forge_a_line(text: str) -> None:
    line = LineFormatter().format(record("request", path=text))
    assert line.isprintable()
    assert json.loads(line.partition("path=")[2]) == text
    assert LineFormatter().format(record(text or "-")).isprintable()


def test_a_traceback_stays_in_its_line() -> None:
    made = record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = LineFormatter().format(made)
    assert line.isprintable()
    assert "ValueError: why" in json.loads(line.partition("traceback=")[2])


def test_health_checks_do_not_fill_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "service.access"):
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2"):
            client.get(path)
    assert [r.levelno for r in caplog.records] == [logging.DEBUG] * 3 + [logging.INFO]
