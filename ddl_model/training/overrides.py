"""`--set optimizer.learning_rate=1e-3`: change fields of a configuration by their names."""

import dataclasses
import difflib
import types
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ddl_model.config import ConfigError

T = TypeVar("T")
_BOOLEANS = {"true": True, "false": False}


def override(config: T, assignments: Sequence[str]) -> T:
    """Return the configuration with fields changed, all at once, so that fields that must fit together may change.

    Raises:
        ConfigError: an assignment has no `=`, names no field, or has a value that the field cannot have; the message
            names the field and what is allowed.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set takes FIELD=VALUE, such as optimizer.learning_rate=1e-3, got {assignment!r}")
        group = changes
        *groups, name = path.strip().split(".")
        for part in groups:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise ConfigError(f"--set {path}: {part} was set to a value already")
        group[name] = text.strip()
    return _replace(config, changes, "")


def _replace(config: T, changes: dict[str, Any], prefix: str) -> T:
    hints = get_type_hints(type(config))
    values: dict[str, Any] = {}
    for name, change in changes.items():
        if name not in hints:
            raise ConfigError(_unknown(name, hints, prefix))
        path, current = prefix + name, getattr(config, name)
        is_group = dataclasses.is_dataclass(current)
        if is_group and isinstance(change, dict):
            values[name] = _replace(current, change, f"{path}.")
        elif is_group:
            raise ConfigError(f"{path} is a group; set one of its fields: {', '.join(get_type_hints(type(current)))}")
        elif isinstance(change, dict):
            raise ConfigError(f"{path} has no field {next(iter(change))!r}: it is a single value, {current!r}")
        else:
            values[name] = _parse(change, hints[name], path)
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _unknown(name: str, hints: dict[str, Any], prefix: str) -> str:
    close = difflib.get_close_matches(name, hints, n=1)
    meant = f", did you mean {prefix}{close[0]}?" if close else "."
    return f"there is no field {prefix}{name}{meant} The fields are {', '.join(hints)}"


def _parse(text: str, hint: Any, path: str) -> Any:
    """Return the value that `text` means for a field with this annotation."""
    origin = get_origin(hint)
    if origin is Literal:
        allowed = get_args(hint)
        by_text = {str(value): value for value in allowed}
        if text not in by_text:
            raise ConfigError(f"{path} must be one of {', '.join(by_text)}, got {text}")
        return by_text[text]
    if origin is tuple:
        item = get_args(hint)[0]
        return tuple(_parse(part.strip(), item, path) for part in text.strip("()[] ").split(",") if part.strip())
    if origin in (Union, types.UnionType):
        raise ConfigError(f"{path} cannot be set on the command line")
    if hint is bool:
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{path} must be true or false, got {text}")
        return _BOOLEANS[text.lower()]
    if hint in (int, float):
        try:
            return hint(text.replace("_", "")) if hint is int else float(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise ConfigError(f"{path} must be {kind}, got {text}") from None
    return text
