"""Requests about gates are counted by form and outcome, and timed."""

from typing import Any

import pytest

from tests.service.gates.conftest import Served
from tests.service.gates.test_gates_answers import SAFETENSORS, BusyTraces


def count(served: Served, name: str) -> dict[tuple[str, ...], float]:
    found = {}
    for family in served.client.state.metrics.families():
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels.values())] = sample.value
    return found


@pytest.mark.parametrize(
    ("body", "options", "path", "grown"),
    [
        ({"inputs": {"token_ids": [5]}}, {}, "", ("json", "ok")),
        ({"inputs": {"token_ids": [5]}}, {"headers": SAFETENSORS}, "", ("safetensors", "ok")),
        ({"inputs": {"token_ids": [5, 6]}, "values": [0.0]}, {}, "/sweep", ("json", "ok")),
        ({"runs": [{"inputs": {"token_ids": [5]}}] * 2}, {}, "/compare", ("json", "ok")),
        ({"inputs": {"token_ids": [5]}, "quantities": "no"}, {"headers": SAFETENSORS}, "", ("safetensors", "refused")),
        ({"inputs": {}}, {}, "", ("json", "refused")),
    ],
)
def test_a_request_is_counted_by_what_became_of_it(
    served: Served, body: Any, options: Any, path: str, grown: tuple[str, str]
) -> None:
    before = count(served, "ddl_gates_requests_total")
    seconds = count(served, "ddl_gates_capture_seconds_count").get(("words", "1"), 0)
    response = served.post("words", body, path, **options)
    assert response.is_success == (grown[1] == "ok")
    after = count(served, "ddl_gates_requests_total")
    assert {key: after[key] - before[key] for key in after if after[key] != before[key]} == {grown: 1.0}
    runs = count(served, "ddl_gates_capture_seconds_count").get(("words", "1"), 0) - seconds
    assert (runs == 1) == (response.status_code == 200 or "quantities" in body)


def test_a_busy_answer_is_counted_as_such(served: Served) -> None:
    before = count(served, "ddl_gates_requests_total")["json", "busy"]
    body = {"inputs": {"token_ids": [5]}, "fail_if_busy": True}

    async def scenario() -> None:
        async with BusyTraces(served):
            answer = await served.client.arequest("POST", "/v1/models/words/gates", json=body)
            assert answer.status_code == 429

    served.client.run(scenario())
    assert count(served, "ddl_gates_requests_total")["json", "busy"] == before + 1
