"""The member `error` of a problem, where OpenAI's clients look for what was wrong."""

from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_CODES = {
    "unknown-model": "model_not_found",
    "unknown-version": "model_not_found",
    "unauthenticated": "invalid_api_key",
    "rate-limited": "rate_limit_exceeded",
    "quota-exhausted": "insufficient_quota",
    "invalid-fields": "invalid_value",
}
"""Codes that OpenAI has a word for; of every other error it is the name of its type, with underscores."""


def error_member(status: int, slug: str, detail: str, details: Mapping[str, object]) -> dict[str, Any]:
    """Return message, type, param and code; a code in the details is more exact than that of the kind."""
    return {
        "message": detail,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": details.get("field"),
        "code": details.get("code", _CODES.get(slug, slug.replace("-", "_"))),
    }
