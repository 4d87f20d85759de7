"""Loading and unloading of models on demand, as the model repository extension asks for it."""

from collections.abc import Mapping
from typing import Any

import orjson

from service.errors import InvalidFields
from service.repository import Repository


async def load_model(repository: Repository, name: str, parameters: Mapping[str, Any]) -> None:
    """Load a model, or load it again; return when it answers.

    The parameter `config`, a JSON text, stands in the place of the model's `config.toml`.

    Raises:
        InvalidFields: a parameter is unknown, files are sent, or the configuration does not fit.
        ControlRefused, UnknownModel, LoadFailed, StoreFailed: see `Repository.load`.
    """
    for parameter in parameters:
        if parameter.startswith("file:"):
            raise _invalid("file", "bundles are not taken from requests; put them into the repository")
        if parameter != "config":
            raise _invalid(parameter[:64], "unknown parameter; known: config")
    await repository.load(name, config=_config(parameters.get("config")))


async def unload_model(repository: Repository, name: str, parameters: Mapping[str, Any]) -> None:
    """Unload every version of a model; return when what was asked before is answered.

    Raises:
        InvalidFields: a parameter is unknown.
        ControlRefused, UnknownModel: see `Repository.unload`.
    """
    for parameter in parameters:
        if parameter != "unload_dependents":  # no model here depends on another
            raise _invalid(parameter[:64], "unknown parameter; known: unload_dependents")
    await repository.unload(name)


def _config(text: object) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        config = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        config = None
    if not isinstance(config, dict):
        raise _invalid("config", "the fields of a config.toml are needed, as a JSON object in a string")
    return config


def _invalid(parameter: str, message: str) -> InvalidFields:
    field = f"parameters.{parameter}"
    return InvalidFields(f"{field}: {message}", errors=[{"field": field, "message": message}])
