"""Which web pages may call the service from a browser: none, unless the settings name their origins."""

from collections.abc import Sequence
from typing import Any

_SENT = ("Authorization", "Content-Type", "Inference-Header-Content-Length", "X-Request-ID", "traceparent")
_READ = ("Inference-Header-Content-Length", "Retry-After", "WWW-Authenticate", "X-Request-ID")


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """Return the options of Starlette's middleware.

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
