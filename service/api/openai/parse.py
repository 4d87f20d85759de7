"""Bodies in OpenAI's form: the first thing that is wrong with them, named with its value."""

from functools import partial
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from service.api.body import JSON, M, load_json, media_type
from service.api.state import in_worker
from service.errors import InvalidFields

_INLINE_BYTES = 64 * 1024
_LONGEST_VALUE = 64

_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "contradiction": "invalid_value",
    "unsupported": "unsupported_parameter",
}


async def read(request: Request, model: type[M]) -> M:
    """Read the body.

    Raises:
        UnsupportedMedia: it is no JSON by its media type.
        InvalidRequest: it is no JSON.
        InvalidFields: a field is missing, unknown, of a wrong type or out of its range.
    """
    media_type(request, JSON)
    body = await request.body()
    if len(body) <= _INLINE_BYTES:
        return parse(body, model)
    return await in_worker(request, partial(parse, body, model))


def parse(body: bytes, model: type[M]) -> M:
    """Parse strict JSON and check its fields; see `read`."""
    value = load_json(body)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        complaint = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part)[:_LONGEST_VALUE] for part in complaint["loc"])
        code = _CODES.get(complaint["type"], "invalid_type" if complaint["type"].endswith("_type") else "invalid_value")
        details = [{"field": field or "body", "message": _sentence(complaint)}]
        raise InvalidFields(
            f"{field}: {_sentence(complaint)}" if field else _sentence(complaint),
            field=field.partition(".")[0] or None,
            code=code,
            errors=details,
        ) from error


def _sentence(complaint: Any) -> str:
    if complaint["type"] == "extra_forbidden":
        return "unknown field; leave it out (/docs lists the fields of this path)"
    value = complaint["input"]
    is_short = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONGEST_VALUE)
    names_it = is_short and complaint["type"] not in ("missing", "contradiction", "unsupported")
    return f"{complaint['msg']}, got {orjson.dumps(value).decode()}" if names_it else str(complaint["msg"])
