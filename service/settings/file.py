"""A file of settings: TOML, or YAML where the parser is installed."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LARGEST_BYTES = 1024 * 1024


class InvalidSettings(Exception):
    """A setting is unknown or has a value that it cannot have; the message names both and the fix."""


def read_file(path: Path, known: set[str]) -> dict[str, Any]:
    """Return the settings of a file; tables (`[limits]`) are for the reader's eyes and may be left out.

    Raises:
        InvalidSettings: the file cannot be read, or names a setting that does not exist or names one twice.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InvalidSettings(f"{path} is too large for a file of settings")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"the settings of {path} cannot be read: {error}") from error
    parsed = _parse(path, text)
    found: dict[str, Any] = {}
    for name, value in _flat(parsed):
        if name not in known:
            raise InvalidSettings(f"{path}: unknown setting {name}{nearest(name, known)}")
        if name in found:
            raise InvalidSettings(f"{path}: {name} is set twice")
        found[name] = value
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` if one of the known names is like this one."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _parse(path: Path, text: str) -> dict[str, Any]:
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettings(f"{path} is not TOML: {error}") from error
    if path.suffix not in (".yaml", ".yml"):
        raise InvalidSettings(f"{path}: a file of settings ends in .toml, .yaml or .yml")
    import yaml  # not needed without such a file

    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSettings(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(parsed, dict | None):
        raise InvalidSettings(f"{path}: settings are written as name: value")
    return parsed or {}


def _flat(parsed: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in parsed.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield str(name).replace("-", "_"), value
