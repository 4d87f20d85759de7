"""Other names of models: `aliases.toml` in the repository, such as `production = "english@3"`."""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.bundle import NAME_PATTERN
from service.errors import ConfigInvalid

ALIASES_NAME = "aliases.toml"
_TARGET = re.compile(r"(?P<name>[^@]+)(?:@(?P<version>[1-9][0-9]{0,8}))?")


@dataclass(frozen=True)
class Target:
    """What an alias stands for; without a version, whichever the model answers with."""

    name: str
    version: str | None = None


def parse_aliases(text: str | None, models: Collection[str]) -> dict[str, Target]:
    """Return each alias with the model that it leads to; an alias may stand for another.

    Args:
        text: the file's content; None is an empty one.
        models: names of folders, which no alias may take.

    Raises:
        ConfigInvalid: it is not of the form `alias = "model"` or `alias = "model@version"`, or aliases go in a circle.
    """
    try:
        values = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{ALIASES_NAME} is not TOML: {error}") from error
    table = {alias: _target(alias, value) for alias, value in values.items()}
    if taken := sorted(table.keys() & set(models)):
        raise ConfigInvalid(f"{ALIASES_NAME}: {taken[0]!r} is the name of a model, choose another for the alias")
    return {alias: _follow(alias, table) for alias in table}


def _target(alias: str, value: object) -> Target:
    match = _TARGET.fullmatch(value) if isinstance(value, str) else None
    if match is None or not re.fullmatch(NAME_PATTERN, match["name"]) or not re.fullmatch(NAME_PATTERN, alias):
        raise ConfigInvalid(f'{ALIASES_NAME}: {alias[:64]!r}: write alias = "model" or alias = "model@version"')
    return Target(match["name"], match["version"])


def _follow(alias: str, table: Mapping[str, Target]) -> Target:
    way = [alias]
    target = table[alias]
    while target.name in table:
        if target.version is not None:
            raise ConfigInvalid(f"{ALIASES_NAME}: {way[-1]!r} adds a version to the alias {target.name!r}")
        if target.name in way:
            raise ConfigInvalid(f"{ALIASES_NAME}: aliases go in a circle: {' -> '.join([*way, target.name])}")
        way.append(target.name)
        target = table[target.name]
    return target
