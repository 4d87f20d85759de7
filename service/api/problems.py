"""Errors as HTTP answers: one table from domain error to status, type and title (RFC 9457, `application/problem+json`).

The body of a request is never part of an answer. Under `/v2` the sentence is also given as `error`, where clients of
the Open Inference Protocol look for it, and on the paths of OpenAI's API there is their object `error`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service import errors
from service.api.openai.error import error_member
from service.api.openai.paths import is_openai

MEDIA_TYPE = "application/problem+json"
URN = "urn:ddl:problem:"


class Kind(NamedTuple):
    """How one class of errors is answered; `slug` is the stable end of the type's URN.

    `protocol_status` holds under `/v2`, where the Open Inference Protocol asks for 400 whatever is wrong with a
    request, and on the paths of OpenAI's API, whose clients expect the same; `openai_status` on the latter alone.
    0 is the same status as elsewhere.
    """

    status: int
    slug: str
    title: str
    protocol_status: int = 0
    openai_status: int = 0

    def status_at(self, path: str) -> int:
        """Return the status for a request of this path."""
        if is_openai(path):
            return self.openai_status or self.protocol_status or self.status
        return self.protocol_status if self.protocol_status and path.startswith("/v2") else self.status


INTERNAL = Kind(500, "internal", "The service failed")
NOT_FOUND = Kind(404, "not-found", "No such path")
METHOD_NOT_ALLOWED = Kind(405, "method-not-allowed", "The path does not take this method")
INVALID_REQUEST = Kind(400, "invalid-request", "The request is not well formed")
INVALID_FIELDS = Kind(422, "invalid-fields", "A field is missing, unknown or of a wrong type", 400)

KINDS: Mapping[type[errors.ServiceError], Kind] = {
    errors.ServiceError: INTERNAL,
    errors.BundleError: Kind(503, "bundle-refused", "The bundle cannot be served"),
    errors.BundleCorrupt: Kind(503, "bundle-corrupt", "The bundle is damaged"),
    errors.BundleIncomplete: Kind(503, "bundle-incomplete", "The bundle is not complete"),
    errors.BundleInvalid: Kind(503, "bundle-invalid", "The bundle does not follow the format"),
    errors.SignatureInvalid: Kind(503, "signature-invalid", "The bundle is not signed by a trusted key"),
    errors.BundleDisagrees: Kind(503, "bundle-disagrees", "The bundle does not reproduce its golden samples"),
    errors.RepositoryEmpty: Kind(503, "repository-empty", "There is nothing to serve"),
    errors.StoreFailed: Kind(503, "store-failed", "The store of the bundles cannot be read"),
    errors.ConfigInvalid: Kind(503, "config-invalid", "The configuration of the model does not fit"),
    errors.UnknownModel: Kind(404, "unknown-model", "Unknown model"),
    errors.UnknownVersion: Kind(404, "unknown-version", "Unknown version"),
    errors.UnknownAudit: Kind(404, "unknown-audit", "Unknown audit"),
    errors.ModelNotReady: Kind(503, "model-not-ready", "The model is not ready"),
    errors.LoadFailed: Kind(503, "load-failed", "The model could not be loaded"),
    errors.ControlRefused: Kind(409, "control-refused", "Models are not loaded on demand here"),
    errors.MemoryLimit: Kind(503, "memory-limit", "There is not enough memory for the model"),
    errors.ProviderUnavailable: Kind(503, "provider-unavailable", "The device cannot be used"),
    errors.ModelFailed: Kind(500, "model-failed", "The model could not be run"),
    errors.InvalidRequest: INVALID_REQUEST,
    errors.InvalidImage: Kind(400, "invalid-image", "The image cannot be read"),
    errors.UnprocessableRequest: Kind(422, "unprocessable", "The request does not fit this model", 400),
    errors.InvalidFields: INVALID_FIELDS,
    errors.InvalidTensor: Kind(422, "invalid-tensor", "A tensor does not fit this model", 400),
    errors.UnknownQuantity: Kind(422, "unknown-quantity", "Unknown quantity", 400),
    errors.QuantityNotDefined: Kind(422, "quantity-not-defined", "The quantity is not defined for this model", 400),
    errors.BadSelection: Kind(422, "bad-selection", "The selection does not fit this model", 400),
    errors.BadIntervention: Kind(422, "bad-intervention", "The intervention does not fit this model", 400),
    errors.InputTooLong: Kind(422, "input-too-long", "The input is too long to be traced", 400),
    errors.RequestTooLarge: Kind(413, "request-too-large", "The request is too large"),
    errors.ResultTooLarge: Kind(413, "result-too-large", "The answer would be too large", 400),
    errors.UnsupportedMedia: Kind(415, "unsupported-media", "The media type is not read here", 400),
    errors.CaptureUnavailable: Kind(501, "capture-unavailable", "The bundle has no such gate outputs"),
    errors.TaskMismatch: Kind(422, "task-mismatch", "The model does another task", 400),
    errors.Overloaded: Kind(503, "overloaded", "Too many requests are waiting", openai_status=429),
    errors.Busy: Kind(429, "busy", "Too many traces are running"),
    errors.Unauthenticated: Kind(401, "unauthenticated", "The caller is not authenticated"),
    errors.Forbidden: Kind(403, "forbidden", "The caller may not do this"),
    errors.RateLimited: Kind(429, "rate-limited", "Too many requests of this caller"),
    errors.QuotaExhausted: Kind(429, "quota-exhausted", "The requests of the day are used up"),
    errors.DeadlinePassed: Kind(504, "deadline-passed", "The request's time was over"),
    errors.CallerGone: Kind(499, "caller-gone", "The caller hung up"),
}


class Problem(BaseModel):
    """An error (RFC 9457); further members depend on its type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description=f"stable name, `{URN}...`")
    title: str
    status: int
    detail: str = Field(description="what was wrong with this request, and how to mend it")
    request_id: str


def service_problem(request: Request, error: Exception) -> Response:
    """Answer a domain error by its row in the table."""
    assert isinstance(error, errors.ServiceError)
    kind = KINDS[type(error)]
    headers = {}
    if "retry_after_seconds" in error.details:
        headers["Retry-After"] = str(error.details["retry_after_seconds"])
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="ddl-serve"'
    return problem(request, kind, str(error), error.details, headers)


def stream_error(error: errors.ServiceError) -> dict[str, Any]:
    """Return what tells of an error in a stream of OpenAI's form, whose status line has gone out."""
    kind = KINDS[type(error)]
    status = kind.openai_status or kind.protocol_status or kind.status
    return {"error": error_member(status, kind.slug, str(error), error.details)}


def http_problem(request: Request, error: Exception) -> Response:
    """Answer the framework's own refusals: no such path, another method, a form that cannot be read."""
    assert isinstance(error, HTTPException)
    kinds = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED, 400: INVALID_REQUEST}
    kind = kinds.get(error.status_code, Kind(error.status_code, f"http-{error.status_code}", error.detail))
    headers = dict(error.headers or {})
    details = {
        404: "nothing is served at this path; /docs lists every path",
        405: f"use {headers.get('Allow', headers.get('allow', 'another method'))}",
    }
    return problem(request, kind, details.get(error.status_code, error.detail), {}, headers)


def validation_problem(request: Request, error: Exception) -> Response:
    """Answer a path or query parameter that does not fit; the value itself is not repeated."""
    assert isinstance(error, RequestValidationError)
    details = field_errors(list(error.errors()))
    return problem(request, INVALID_FIELDS, sentence(details), {"errors": details}, {})


def field_errors(complaints: list[Any]) -> list[dict[str, str]]:
    """Return the first complaints of pydantic as `{"field", "message"}`, without the values."""
    found = []
    for complaint in complaints[:10]:
        field = ".".join(str(part)[:64] for part in complaint["loc"]) or "body"
        unknown = complaint["type"] == "extra_forbidden"
        found.append({"field": field, "message": "unknown field" if unknown else complaint["msg"]})
    return found


def sentence(details: list[dict[str, str]]) -> str:
    """Say the first complaint in one line."""
    return f"{details[0]['field']}: {details[0]['message']}"


def problem(
    request: Request, kind: Kind, detail: str, details: Mapping[str, object], headers: Mapping[str, str]
) -> Response:
    """Build the answer."""
    status = kind.status_at(request.url.path)
    body: dict[str, object] = {
        "type": URN + kind.slug,
        "title": kind.title,
        "status": status,
        "detail": detail,
        "request_id": request.scope["state"]["request_id"],
    }
    body |= {name: value for name, value in details.items() if name not in body}
    if request.url.path.startswith("/v2"):
        body["error"] = detail
    elif is_openai(request.url.path):
        body["error"] = error_member(status, kind.slug, detail, details)
    return Response(orjson.dumps(body), status, dict(headers), MEDIA_TYPE)
