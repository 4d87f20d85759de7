import re
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.routes import HIDDEN, ROUTES
from tests.service.conftest import Client


def test_the_documentation_asks_no_other_host(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    linked = re.findall(r"""(?:src|href)="([^"]*)"|url: '([^']*)'""", page.text)
    targets = [first or second for first, second in linked]
    assert set(targets) == {
        "/docs/assets/swagger-ui.css",
        "data:,",
        "/docs/assets/swagger-ui-bundle.js",
        "/openapi.json",
    }
    for target in targets:
        if target.startswith("/"):
            assert client.get(target).status_code == 200
    assert "http" not in re.sub(r"<!--.*?-->", "", page.text)


def test_assets_come_with_their_type(client: Client) -> None:
    script = client.get("/docs/assets/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert len(script.content) > 500_000
    assert client.get("/docs/assets/swagger-ui.css").headers["content-type"].startswith("text/css")


def test_the_table_lists_every_path_that_is_served(client: Client) -> None:
    served = {route.path for route in client.app.routes}  # type: ignore[attr-defined]
    assert served == {route.path for route in ROUTES} | {path for path, _ in HIDDEN}


def document(client: Client) -> Any:
    return client.get("/openapi.json").json()


def test_the_document_has_each_route_with_every_status_and_body(client: Client) -> None:
    paths = document(client)["paths"]
    assert set(paths) == {route.path for route in ROUTES}
    for route in ROUTES:
        operation = paths[route.path][route.method.lower()]
        assert set(operation["responses"]) == {"200", *map(str, route.statuses())}, route.path
        assert operation["summary"]
        assert ("requestBody" in operation) == (route.body is not None)
        for status, response in operation["responses"].items():
            media = "application/problem+json" if status != "200" else None
            assert media is None or list(response["content"]) == [media]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(set(ids)) == len(ids)


def test_every_reference_of_the_document_is_defined(client: Client) -> None:
    whole = document(client)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', client.get("/openapi.json").text))
    assert references <= set(whole["components"]["schemas"])
    assert {"Problem", "InferRequest", "GatesRequest", "ClassifyRequest", "GatesResponse"} <= references


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.path)
def test_the_examples_of_the_document_are_valid(route: Any) -> None:
    model: type[BaseModel] = route.body.json
    model.model_validate(route.body.example)


def test_the_example_image_is_classified(client: Client) -> None:
    (route,) = (route for route in ROUTES if route.path.endswith("/classify"))
    assert route.body is not None
    assert client.post("/v1/models/tiny/classify", json=route.body.example).status_code == 200
