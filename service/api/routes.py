"""Every path of the service in one table."""

import inspect
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from service.api import classify, docs, gates, gates_schema, health, models, predict
from service.api.docs import REF
from service.api.problems import MEDIA_TYPE, Problem

Endpoint = Callable[..., Awaitable[Response]]

_READ = (404, 422, 503)
_RUN = (400, 404, 413, 415, 422, 503)

_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
_FORM = {"type": "object", "properties": {"image": _BINARY}, "required": ["image"], "additionalProperties": False}


class Body(NamedTuple):
    """What an endpoint reads: a JSON model, and other media types with their schema."""

    json: type[BaseModel]
    example: dict[str, Any]
    others: dict[str, dict[str, Any]]


class Route(NamedTuple):
    """One path: `answer` is None where the answer is not JSON, `problems` are the statuses beside 200 and 500."""

    method: str
    path: str
    endpoint: Endpoint
    tag: str
    answer: type[BaseModel] | None
    problems: tuple[int, ...] = ()
    body: Body | None = None


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
_INFER = Body(
    predict.InferRequest,
    {"inputs": [{"name": "pixels", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1.0]}]},
    {},
)
_CLASSIFY = Body(classify.ClassifyRequest, {"image": _PIXEL}, {"multipart/form-data": _FORM, "image/*": _BINARY})
_GATES = Body(
    gates_schema.GatesRequest,
    {"inputs": {"image": _PIXEL}, "select": {"layers": "-1:"}, "quantities": ["beta", "eigenvalue"]},
    {"image/*": _BINARY},
)

_MODEL = "/v2/models/{name}"
_VERSION = "/v2/models/{name}/versions/{version}"

ROUTES = (
    Route("GET", "/v2", predict.server_metadata, "Open Inference Protocol", predict.ServerMetadata),
    Route("GET", "/v2/health/live", health.live, "Open Inference Protocol", health.Live),
    Route("GET", "/v2/health/ready", health.ready, "Open Inference Protocol", health.Ready, (503,)),
    Route("GET", _MODEL, predict.model_metadata, "Open Inference Protocol", predict.ModelMetadata, _READ),
    Route("GET", _VERSION, predict.model_metadata, "Open Inference Protocol", predict.ModelMetadata, _READ),
    Route("GET", _MODEL + "/ready", predict.model_ready, "Open Inference Protocol", predict.ModelReady, _READ),
    Route("GET", _VERSION + "/ready", predict.model_ready, "Open Inference Protocol", predict.ModelReady, _READ),
    Route("POST", _MODEL + "/infer", predict.infer, "Open Inference Protocol", predict.InferResponse, _RUN, _INFER),
    Route("POST", _VERSION + "/infer", predict.infer, "Open Inference Protocol", predict.InferResponse, _RUN, _INFER),
    Route("GET", "/v1/models", models.list_models, "Models", models.ModelList),
    Route(
        "POST", "/v1/models/{name}/classify", classify.classify, "Models", classify.ClassifyResponse, _RUN, _CLASSIFY
    ),
    Route("GET", "/v1/models/{name}/gates/meta", gates.gates_meta, "Gates", gates_schema.GatesMeta, (*_READ, 501)),
    Route(
        "POST", "/v1/models/{name}/gates", gates.trace_gates, "Gates", gates_schema.GatesResponse, (*_RUN, 501), _GATES
    ),
    Route("GET", "/metrics", health.metrics, "Operation", None),
)

HIDDEN = (
    ("/", docs.start_page),
    ("/openapi.json", docs.openapi_document),
    ("/docs", docs.docs_page),
    ("/docs/assets/{name}", docs.docs_asset),
)
"""Paths for browsers, which the OpenAPI document leaves out."""


def add_routes(app: FastAPI) -> None:
    """Add every path, documented with its bodies and each status that it can answer."""
    for route in ROUTES:
        summary, _, description = inspect.getdoc(route.endpoint).partition("\n\n")  # type: ignore[union-attr]
        app.add_api_route(
            route.path,
            route.endpoint,
            methods=[route.method],
            tags=[route.tag],
            summary=summary.rstrip("."),
            description=description,
            response_class=Response,
            responses=_responses(route),
            openapi_extra=_request_body(route.body) if route.body else None,
        )
    for path, endpoint in HIDDEN:
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)
    docs.install_openapi(app, [Problem, *{route.body.json for route in ROUTES if route.body}])


def _responses(route: Route) -> dict[int | str, dict[str, Any]]:
    if route.answer is None:
        first: dict[str, Any] = {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}
    else:
        first = {"description": "OK", "model": route.answer}
    responses: dict[int | str, dict[str, Any]] = {200: first}
    for status in (*route.problems, 500):
        schema = {"$ref": REF.format(model=Problem.__name__)}
        responses[status] = {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
    return responses


def _request_body(body: Body) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {"schema": schema} for media_type, schema in body.others.items()}
    schema = {"$ref": REF.format(model=body.json.__name__)}
    content["application/json"] = {"schema": schema, "example": body.example}
    return {"requestBody": {"required": True, "content": content}}
