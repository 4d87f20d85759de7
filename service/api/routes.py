"""Every path of the service in one table."""

import inspect
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from service.api import (
    classify,
    debug,
    docs,
    gates,
    gates_audits,
    gates_meta,
    gates_schema,
    gates_stats,
    health,
    models,
    page,
    predict,
)
from service.api import oip_logging as log
from service.api import oip_metadata as meta
from service.api import oip_repository as repo
from service.api import oip_schema as oip
from service.api import oip_statistics as stats
from service.api.docs import REF, SECURITY_SCHEME
from service.api.guarded import guarded
from service.api.openai import chat, chat_schema, completion_schema, completions, score, tokens
from service.api.problems import MEDIA_TYPE, Problem
from service.gates import body as gates_body
from service.gates import request as gates_request
from service.security.caller import Scope

Endpoint = Callable[..., Awaitable[Response]]

GUARDED = (401, 403, 429)
"""What the guard can answer in front of every path that is not public."""

_READ = (404, 422, 503)
_RUN = (400, 404, 413, 415, 422, 503)
_TRACE = (*_RUN, 501, 504)

# Under /v2 what is wrong with a request is 400, as the protocol has it; 413 is a body that was not read at all.
_OIP_READ = (404, 503)
_OIP_WRITE = (400, 413)
_OIP_RUN = (400, 404, 413, 503, 504)
# OpenAI's clients expect 400 as well, and 429 where a queue is full.
_TEXT = (400, 404, 413, 503, 504)
_GENERATE = (*_TEXT, 501)
_OIP_CONTROL = (400, 404, 409, 413, 503)

_BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
_FORM = {"type": "object", "properties": {"image": _BINARY}, "required": ["image"], "additionalProperties": False}


class Body(NamedTuple):
    """What an endpoint reads: a JSON model, and other media types with their schema.

    With `optional`, no body at all is as good as an empty object. With `tensors`, binary tensors may follow the JSON,
    in the request and in the answer. `stream` is a chunk of the answer where it may come as server-sent events, `file`
    the media type that it may have as a file.
    """

    json: type[BaseModel]
    example: dict[str, Any]
    others: dict[str, dict[str, Any]]
    optional: bool = False
    tensors: bool = False
    stream: type[BaseModel] | None = None
    file: str | None = None


class Route(NamedTuple):
    """One path; `scope` is what its callers need.

    `answer` is None where the answer is not JSON, `problems` are the statuses beside 200, 500 and those of the guard.
    """

    method: str
    path: str
    scope: Scope
    endpoint: Endpoint
    tag: str
    answer: type[BaseModel] | None
    problems: tuple[int, ...] = ()
    body: Body | None = None

    def statuses(self) -> tuple[int, ...]:
        """Return every status beside 200, those of the guard and of a failure included."""
        return tuple(sorted({*self.problems, *(GUARDED if self.scope != "public" else ()), 500}))


_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
_INFER = Body(
    oip.InferRequest,
    {"inputs": [{"name": "pixels", "shape": [1, 2], "datatype": "FP32", "data": [0.5, -1.0]}]},
    {"application/octet-stream": _BINARY},
    tensors=True,
)
_INDEX = Body(repo.IndexRequest, {"ready": True}, {}, optional=True)
_LOAD = Body(repo.LoadRequest, {}, {}, optional=True)
_LOGGING = Body(log.LogSettingsChange, {"log_verbose_level": 1}, {})
_CLASSIFY = Body(classify.ClassifyRequest, {"image": _PIXEL}, {"multipart/form-data": _FORM, "image/*": _BINARY})
_COMPLETION = Body(
    completion_schema.CompletionRequest,
    {"model": "words", "prompt": "The gate", "max_tokens": 8},
    {},
    stream=completion_schema.Completion,
)
_CHAT = Body(
    chat_schema.ChatRequest,
    {"model": "words", "messages": [{"role": "user", "content": "What is a gate?"}]},
    {},
    stream=chat_schema.ChatChunk,
)
_SCORE = Body(score.ScoreRequest, {"inputs": [{"context": "The gate", "text": " opens"}]}, {})
_TOKENIZE = Body(tokens.TokenizeRequest, {"text": "The gate"}, {})
_DETOKENIZE = Body(tokens.DetokenizeRequest, {"tokens": [1, 2]}, {})
_GATES = Body(
    gates_request.GatesRequest,
    {"inputs": {"image": _PIXEL}, "select": {"layers": "-1:"}, "quantities": ["beta", "eigenvalue"]},
    {"image/*": _BINARY},
    file=gates_body.MEDIA_TYPE,
)
_SWEEP = Body(
    gates_request.SweepRequest,
    {"inputs": {"prompt": "The gate opens"}, "values": [0.0], "sites": ["0.mlp"]},
    {},
)
_COMPARE = Body(
    gates_request.CompareRequest,
    {"runs": [{"inputs": {"prompt": "The gate opens"}}, {"inputs": {"prompt": "The gate shuts"}}]},
    {},
    file=gates_body.MEDIA_TYPE,
)

HEADER_LENGTH = predict.HEADER_LENGTH
_SENT_LENGTH = "bytes of the JSON in front of binary tensors; 0 if the body is the data of the only input"
_ANSWERED_LENGTH = "bytes of the JSON in front of binary tensors; left out if there are none"

_OIP = "Open Inference Protocol"
_MODEL = "/v2/models/{name}"
_VERSION = "/v2/models/{name}/versions/{version}"
_LOADABLE = "/v2/repository/models/{name}"

ROUTES = (
    Route("GET", "/v2", "infer", meta.server_metadata, _OIP, oip.ServerMetadata),
    Route("GET", "/v2/health/live", "public", health.live, _OIP, health.Live),
    Route("GET", "/v2/health/ready", "public", health.ready, _OIP, health.Ready, (503,)),
    Route("GET", "/v2/models/stats", "metrics", stats.all_statistics, _OIP, stats.StatisticsList),
    Route("GET", _MODEL, "infer", meta.model_metadata, _OIP, oip.ModelMetadata, _OIP_READ),
    Route("GET", _VERSION, "infer", meta.model_metadata, _OIP, oip.ModelMetadata, _OIP_READ),
    Route("GET", _MODEL + "/ready", "infer", meta.model_ready, _OIP, oip.ModelReady, _OIP_READ),
    Route("GET", _VERSION + "/ready", "infer", meta.model_ready, _OIP, oip.ModelReady, _OIP_READ),
    Route("GET", _MODEL + "/config", "infer", meta.model_config, _OIP, meta.ModelConfig, _OIP_READ),
    Route("GET", _VERSION + "/config", "infer", meta.model_config, _OIP, meta.ModelConfig, _OIP_READ),
    Route("GET", _MODEL + "/stats", "metrics", stats.model_statistics, _OIP, stats.StatisticsList, _OIP_READ),
    Route("GET", _VERSION + "/stats", "metrics", stats.model_statistics, _OIP, stats.StatisticsList, _OIP_READ),
    Route("POST", _MODEL + "/infer", "infer", predict.infer, _OIP, oip.InferResponse, _OIP_RUN, _INFER),
    Route("POST", _VERSION + "/infer", "infer", predict.infer, _OIP, oip.InferResponse, _OIP_RUN, _INFER),
    Route("POST", "/v2/repository/index", "infer", repo.index, _OIP, repo.Index, _OIP_WRITE, _INDEX),
    Route("POST", _LOADABLE + "/load", "admin", repo.load, _OIP, repo.Done, _OIP_CONTROL, _LOAD),
    Route("POST", _LOADABLE + "/unload", "admin", repo.unload, _OIP, repo.Done, _OIP_CONTROL, _LOAD),
    Route("GET", "/v2/logging", "admin", log.log_settings, _OIP, log.LogSettings),
    Route("POST", "/v2/logging", "admin", log.change_logging, _OIP, log.LogSettings, _OIP_WRITE, _LOGGING),
    Route("GET", "/v1/models", "infer", models.list_models, "Models", models.ModelList),
    Route("GET", "/v1/models/{name}", "infer", models.get_model, "Models", models.ModelCard, (404, 503)),
    Route(
        "POST",
        "/v1/completions",
        "infer",
        completions.create_completion,
        "Text",
        completion_schema.Completion,
        _GENERATE,
        _COMPLETION,
    ),
    Route(
        "POST",
        "/v1/chat/completions",
        "infer",
        chat.create_chat_completion,
        "Text",
        chat_schema.ChatCompletion,
        _GENERATE,
        _CHAT,
    ),
    Route("POST", "/v1/models/{name}/score", "infer", score.score, "Text", score.ScoreResponse, _TEXT, _SCORE),
    Route("POST", "/v1/models/{name}/tokenize", "infer", tokens.tokenize, "Text", tokens.Tokenized, _TEXT, _TOKENIZE),
    Route(
        "POST",
        "/v1/models/{name}/detokenize",
        "infer",
        tokens.detokenize,
        "Text",
        tokens.Detokenized,
        _TEXT,
        _DETOKENIZE,
    ),
    Route(
        "POST",
        "/v1/models/{name}/classify",
        "infer",
        classify.classify,
        "Models",
        classify.ClassifyResponse,
        _RUN,
        _CLASSIFY,
    ),
    Route(
        "GET",
        "/v1/models/{name}/gates/meta",
        "gates",
        gates_meta.gates_meta,
        "Gates",
        gates_schema.GatesMeta,
        (*_READ, 501),
    ),
    Route(
        "POST",
        "/v1/models/{name}/gates",
        "gates",
        gates.trace_gates,
        "Gates",
        gates_schema.GatesResponse,
        _TRACE,
        _GATES,
    ),
    Route(
        "POST",
        "/v1/models/{name}/gates/sweep",
        "gates",
        gates.sweep_gates,
        "Gates",
        gates_schema.SweepResponse,
        _TRACE,
        _SWEEP,
    ),
    Route(
        "POST",
        "/v1/models/{name}/gates/compare",
        "gates",
        gates.compare_gates,
        "Gates",
        gates_schema.CompareResponse,
        _TRACE,
        _COMPARE,
    ),
    Route(
        "GET",
        "/v1/models/{name}/gates/stats",
        "gates",
        gates_stats.gates_stats,
        "Gates",
        gates_stats.GateStats,
        (*_READ, 501),
    ),
    Route("GET", "/v1/gates/audits", "gates", gates_audits.audits, "Gates", gates_audits.AuditList, (422, 503)),
    Route("GET", "/v1/gates/audits/{audit}/{file}", "gates", gates_audits.audit_content, "Gates", None, _READ),
    Route("GET", "/metrics", "metrics", health.metrics, "Operation", None),
    Route("GET", "/debug/profile", "admin", debug.debug_profile, "Operation", None, (422, 503)),
    Route("GET", "/debug/threads", "admin", debug.debug_threads, "Operation", None),
    Route("GET", "/debug/settings", "admin", debug.debug_settings, "Operation", debug.ChosenSettings),
    Route("GET", "/debug/versions", "admin", debug.debug_versions, "Operation", debug.Versions),
)

HIDDEN = (
    ("/", page.page),
    ("/page/{file}", page.page_file),
    ("/openapi.json", docs.openapi_document),
    ("/docs", docs.docs_page),
    ("/docs/assets/{name}", docs.docs_asset),
)
"""Paths for browsers, which the OpenAPI document leaves out."""


def add_routes(app: FastAPI) -> None:
    """Add every path, documented with its bodies and each status that it can answer."""
    for route in ROUTES:
        summary, _, description = inspect.getdoc(route.endpoint).partition("\n\n")  # type: ignore[union-attr]
        app.router.add_api_route(
            route.path,
            route.endpoint,
            methods=[route.method],
            tags=[route.tag],
            summary=summary.rstrip("."),
            description=description,
            response_class=Response,
            responses=_responses(route),
            openapi_extra=_extra(route),
            route_class_override=guarded(route.scope),
        )
    for path, endpoint in HIDDEN:
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)
    bodies = [route.body for route in ROUTES if route.body]
    docs.install_openapi(
        app, [Problem, *{body.json for body in bodies}, *{body.stream for body in bodies if body.stream is not None}]
    )


def _responses(route: Route) -> dict[int | str, dict[str, Any]]:
    if route.answer is None:
        first: dict[str, Any] = {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}
    else:
        first = {"description": "OK", "model": route.answer}
        if route.body is not None and route.body.tensors:
            first["content"] = {"application/octet-stream": {"schema": _BINARY}}
            first["headers"] = {HEADER_LENGTH: {"description": _ANSWERED_LENGTH, "schema": {"type": "integer"}}}
        if route.body is not None and route.body.stream is not None:
            chunk = REF.format(model=route.body.stream.__name__)
            events = {"type": "string", "description": f"events `data: CHUNK`, each a {chunk}; the last is `[DONE]`"}
            first["content"] = {"text/event-stream": {"schema": events}}
        if route.body is not None and route.body.file:
            first["content"] = {route.body.file: {"schema": _BINARY}}
    responses: dict[int | str, dict[str, Any]] = {200: first}
    for status in route.statuses():
        schema = {"$ref": REF.format(model=Problem.__name__)}
        responses[status] = {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
    return responses


def _extra(route: Route) -> dict[str, Any]:
    """Return what FastAPI cannot know: the bodies that endpoints read themselves, and what the guard asks for."""
    extra: dict[str, Any] = _request_body(route.body) if route.body else {}
    if route.scope != "public":
        # Anonymous callers may have scopes too: the empty requirement says so.
        extra |= {"security": [{SECURITY_SCHEME: []}, {}], "x-scope": route.scope}
    return extra


def _request_body(body: Body) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {"schema": schema} for media_type, schema in body.others.items()}
    schema = {"$ref": REF.format(model=body.json.__name__)}
    content["application/json"] = {"schema": schema, "example": body.example}
    extra: dict[str, Any] = {"requestBody": {"required": not body.optional, "content": content}}
    if body.tensors:
        described = {"description": _SENT_LENGTH, "schema": {"type": "string", "pattern": "^[0-9]{1,12}$"}}
        extra["parameters"] = [{"name": HEADER_LENGTH, "in": "header", "required": False, **described}]
    return extra
