"""Read the settings from file, environment and flags, and say what is wrong with them in one line."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError

from service.settings.fields import GROUPS, PREFIX, Settings
from service.settings.file import InvalidSettings, nearest, read_file

CONFIG_FLAG = "--config"
CONFIG_VARIABLE = PREFIX + "CONFIG"


def load_settings(arguments: Sequence[str]) -> Settings:
    """Read file, environment and flags, of growing weight; `--help` prints every setting and ends the program.

    Raises:
        InvalidSettings: a name in the file, a `DDL_` variable or a flag is unknown, or a value does not fit.
    """
    names = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in names:
            raise InvalidSettings(f"unknown setting {variable}{nearest(variable, names)}")
    flags = {_flag(name) for name in Settings.model_fields} | {CONFIG_FLAG}
    try:
        known, unknown = _parser().parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise InvalidSettings(str(error)) from error
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise InvalidSettings(f"unknown argument {flag}{nearest(flag, flags)}; --help lists all")
    chosen: dict[str, Any] = {name: value for name, value in vars(known).items() if value is not None}
    config = chosen.pop("config", None) or os.environ.get(CONFIG_VARIABLE)
    written = read_file(Path(config), set(Settings.model_fields)) if config else {}
    # What the environment sets wins over the file; values given here win over the environment.
    unset = {name: value for name, value in written.items() if not os.environ.get(PREFIX + name.upper())}
    try:
        return Settings(**unset | chosen)
    except ValidationError as error:
        raise _invalid(error, chosen, unset, config) from error
    except SettingsError as error:
        raise InvalidSettings(str(error)) from error


def _invalid(
    error: ValidationError, chosen: dict[str, Any], unset: dict[str, Any], config: str | None
) -> InvalidSettings:
    """Name the first wrong setting by the place that it came from."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return InvalidSettings(first["msg"].removeprefix("Value error, "))
    name = str(first["loc"][0])
    if name in chosen:
        source = _flag(name)
    elif name in unset:
        source = f"{config}: {name}"
    else:
        source = PREFIX + name.upper()
    return InvalidSettings(f"{source}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddl-serve",
        description="Serve delta-network bundles: Open Inference Protocol over HTTP and gRPC, image classification, "
        "gates.",
        epilog="Example: ddl-serve --repository models --port 9000. Documentation of the running service: /docs.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        CONFIG_FLAG, metavar="FILE", help=f"file of settings, TOML or YAML; everything below wins ({CONFIG_VARIABLE})"
    )
    for group in GROUPS:
        title = (group.__doc__ or "").partition("\n")[0].rstrip(".")
        section = parser.add_argument_group(title)
        for name, field in group.model_fields.items():
            shown = f"(default {show_default(field.default)}; {PREFIX}{name.upper()})"
            section.add_argument(_flag(name), metavar="VALUE", help=f"{field.description} {shown}".replace("%", "%%"))
    return parser


def show_default(value: object) -> str:
    """Write a default as a person would."""
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
