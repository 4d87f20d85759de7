"""Small checks of decoded JSON, whose refusals name the field as a path with dots."""

from typing import Any, NoReturn

from service.errors import InvalidFields
from service.protocol.call import Parameter


def refuse(field: str, message: str) -> NoReturn:
    """Refuse a field; `message` must not repeat what was sent.

    Raises:
        InvalidFields: always.
    """
    raise InvalidFields(f"{field}: {message}", errors=[{"field": field, "message": message}])


def check_object(value: Any, field: str, required: frozenset[str], optional: frozenset[str]) -> dict[str, Any]:
    """Return the value if it is an object with every required member and no unknown one.

    Raises:
        InvalidFields: it is something else.
    """
    if not isinstance(value, dict):
        refuse(field, "an object is needed")
    keys = value.keys()
    if not keys <= required | optional:
        refuse(_join(field, min(keys - required - optional)[:64]), "unknown field")
    if not required <= keys:
        refuse(_join(field, min(required - keys)), "field required")
    return value


def check_list(value: Any, field: str, *, at_least: int = 0) -> list[Any]:
    """Return the value if it is a list with `at_least` items.

    Raises:
        InvalidFields: it is something else, or shorter.
    """
    if not isinstance(value, list):
        refuse(field, "a list is needed")
    if len(value) < at_least:
        refuse(field, f"at least {at_least} item is needed")
    return value


def check_text(value: Any, field: str, limit: int = 1024) -> str:
    """Return the value if it is a string of at most `limit` characters.

    Raises:
        InvalidFields: it is something else, or longer.
    """
    if not isinstance(value, str):
        refuse(field, "a string is needed")
    if len(value) > limit:
        refuse(field, f"at most {limit} characters are allowed")
    return value


def check_integer(value: Any, field: str, low: int, high: int) -> int:
    """Return the value if it is an integer in [low, high]; a boolean is none.

    Raises:
        InvalidFields: it is something else, or out of range.
    """
    if type(value) is not int:
        refuse(field, "an integer is needed")
    if not low <= value <= high:
        refuse(field, f"an integer from {low} to {high} is needed")
    return value


def check_boolean(value: Any, field: str) -> bool:
    """Return the value if it is true or false.

    Raises:
        InvalidFields: it is something else.
    """
    if not isinstance(value, bool):
        refuse(field, "true or false is needed")
    return value


def check_parameters(value: Any, field: str) -> dict[str, Parameter]:
    """Return the value if it is an object of strings, numbers, booleans and null.

    Raises:
        InvalidFields: it is something else.
    """
    if not isinstance(value, dict):
        refuse(field, "an object is needed")
    for name, inner in value.items():
        if not isinstance(inner, str | int | float | None):
            refuse(_join(field, name[:64]), "a string, a number or a boolean is needed")
    return value


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field != "body" else name
