"""Settings of the service: environment variables `DDL_*` and flags of the same names; a flag wins over its variable."""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "DDL_"


class InvalidSettings(Exception):
    """A setting is unknown or has a value that it cannot have; the message names both and the fix."""


class Settings(BaseSettings):
    """Everything that an operator can choose; each field is `--field-name` and `DDL_FIELD_NAME`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 lets the system choose one")
    repository: Path = Field(Path("models"), description="folder of bundles, NAME/VERSION/ inside")
    kernel_library: str = Field(
        "auto", description="op library: auto (the one built into the package), off (plain bodies), or a path"
    )
    provider: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the models; auto is cpu")
    threads: int = Field(
        0, ge=0, le=1024, description="threads of one model run; 0 takes every core that the process may use"
    )
    workers: int = Field(2, ge=1, le=256, description="model runs at the same time")
    queue_limit: int = Field(128, ge=0, description="requests that may wait for a worker; more are answered 503")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="largest request body, in bytes")
    max_image_pixels: int = Field(20_000_000, ge=1, description="largest image, width x height")
    max_rows: int = Field(256, ge=1, description="most rows (first axis) of one inference request")
    json_cells: int = Field(200_000, ge=1, description="most numbers in one JSON answer")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    drain_delay_seconds: float = Field(
        0.5, ge=0, le=300, description="after SIGTERM: time that readiness says no before the port closes"
    )
    drain_seconds: int = Field(
        20, ge=0, le=3600, description="after the port closed: time for requests in flight to finish"
    )


def load_settings(arguments: Sequence[str]) -> Settings:
    """Read flags and environment; `--help` prints every setting and ends the program.

    Raises:
        InvalidSettings: a flag or a `DDL_` variable is unknown, or a value does not fit.
    """
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in names:
            raise InvalidSettings(f"unknown setting {variable}{_nearest(variable, names)}")
    flags = {_flag(name) for name in Settings.model_fields}
    try:
        known, unknown = _parser().parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise InvalidSettings(str(error)) from error
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise InvalidSettings(f"unknown argument {flag}{_nearest(flag, flags)}; --help lists all")
    chosen: dict[str, Any] = {name: value for name, value in vars(known).items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        source = _flag(name) if name in chosen else PREFIX + name.upper()
        raise InvalidSettings(f"{source}={first['input']!r}: {first['msg']}") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddl-serve",
        description="Serve delta-network bundles over HTTP: Open Inference Protocol, image classification, gates.",
        epilog="Example: ddl-serve --repository models --port 9000. Documentation of the running service: /docs.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    for name, field in Settings.model_fields.items():
        default = str(field.default)
        parser.add_argument(
            _flag(name),
            metavar="VALUE",
            help=f"{field.description} (default {default}; {PREFIX}{name.upper()})".replace("%", "%%"),
        )
    return parser
