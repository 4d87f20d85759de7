"""Requests made from the service's own OpenAPI document: no server error, no undocumented status, no other answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.routes import ROUTES, Route
from tests.running_service import running_service
from tests.service.openai.models import write_text_models
from tests.service.test_predict_api import VALID, infer_body

TEXT_PATHS = ("/score", "/tokenize", "/detokenize")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api(root: Path, text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the OpenAPI document of a running service; half of the cases are about a model and tensors that exist."""
    repository = tmp_path_factory.mktemp("models")
    write_text_models(repository, text_bundle, slot_tokens=256)
    with running_service(root, "--repository", str(repository), "--control", "none") as base:
        document = schemathesis.openapi.from_url(f"{base}/openapi.json")

        @document.hook
        def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
            if path_parameters and len(str(path_parameters)) % 2:
                known = "words" if context.operation.path.endswith(TEXT_PATHS) else "tiny"
                path_parameters |= {name: known if name == "name" else "1" for name in path_parameters}
            return path_parameters

        @document.hook
        def map_body(context: Any, body: Any) -> Any:
            path = context.operation.path
            if isinstance(body, dict) and "inputs" in body and path.startswith("/v2") and len(str(body)) % 2:
                body["inputs"] = infer_body(VALID)["inputs"]  # so that the other members are looked at
            if isinstance(body, dict) and "model" in body and len(str(body)) % 2:
                body["model"] = "talk" if "chat" in path else "words"
                for rare in ("version", "suffix", "stream_options", "structured_outputs", "response_format"):
                    body.pop(rare, None)
            return body

        yield document


def sensible(route: Route) -> bool:
    return not route.path.startswith("/debug/profile")  # takes the seconds that it is asked for


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if sensible(route)], ids=lambda route: f"{route.method} {route.path}"
)
def test_every_answer_is_as_documented(api: Any, route: Route) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=api[route.path][route.method].as_strategy())
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
