"""Documentation of the running service: the OpenAPI document and a page for it, with no request to another host."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import json_response

REF = "#/components/schemas/{model}"

SECURITY_SCHEME = "bearer"

_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key of `ddl-keys` or a token of the configured issuer; it must allow the path's `x-scope`.",
}
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


async def docs_page(request: Request) -> Response:
    """Swagger UI over this service's OpenAPI document."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=request.app.title,
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True},
    )
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body))
    return page


async def openapi_document(request: Request) -> Response:
    """Every documented path with its bodies and answers, as OpenAPI 3.1."""
    return json_response(request.app.openapi())


async def docs_asset(request: Request, name: str) -> Response:
    """Swagger UI's own files, from the package that carries them."""
    if name not in _ASSETS:
        raise HTTPException(404)
    body = (files("fastapi_offline") / "static" / name).read_bytes()
    return Response(body, media_type=_ASSETS[name], headers={"Cache-Control": "max-age=86400"})


def _policy(page: bytes) -> str:
    """Allow what this page needs: our own files, the service's answers, and the one script that stands in it."""
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    rules = {
        "default-src": "'none'",
        "script-src": f"'self' 'sha256-{digest}'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _remove_foreign_errors(schema: dict[str, Any]) -> None:
    """Take out what FastAPI adds for paths with parameters: its own 422, which this service never answers."""
    for path in schema["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(content.get("application/json")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def install_openapi(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Let `/openapi.json` define `models` too: bodies that endpoints read themselves, and problems."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            _remove_foreign_errors(schema)
            components["securitySchemes"] = {SECURITY_SCHEME: _BEARER}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
