"""Which web pages may call the service from a browser: none, unless the settings name their origins."""

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.problems import service_problem
from service.errors import Forbidden

_SENT = ("Authorization", "Content-Type", "Inference-Header-Content-Length", "X-Request-ID", "traceparent")
_READ = ("Inference-Header-Content-Length", "Retry-After", "WWW-Authenticate", "X-Request-ID")


class CrossOrigin(CORSMiddleware):
    """Starlette's middleware, whose refusals are answered like every other error of the service."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser's question in advance, if it is one."""
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                await self._preflight(Request(scope), headers)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _preflight(self, request: Request, headers: Headers) -> Response:
        answer = self.preflight_response(request_headers=headers)
        if answer.status_code < 400:
            return answer
        refused = bytes(answer.body).decode().partition("CORS ")[2] or "origin"  # origin, method, headers
        return service_problem(
            request,
            Forbidden(
                f"web pages may not send this request, because of its {refused}: the setting cors_origins names the "
                f"origins that may; they may use GET and POST with the headers {', '.join(_SENT)}"
            ),
        )


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """Return the options of the middleware.

    Browsers send no cookies along: callers are known by a header, which a page must set itself.
    """
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": list(_SENT),
        "expose_headers": list(_READ),
        "allow_credentials": False,
        "max_age": 600,
    }
