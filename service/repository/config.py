"""What an operator decides for one model: `config.toml` beside its versions; whatever it leaves out is the default."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.engine.job import BatchLimits
from service.errors import ConfigInvalid
from service.repository.generation import Generation
from service.repository.policy import VersionPolicy, parse_policy

CONFIG_NAME = "config.toml"


@dataclass(frozen=True)
class Serving:
    """How a model is served; `threads` are those of one run, `limits.instances` the runs at the same time.

    As a default, `threads` are shared out among the instances. With `warm_up`, each session runs every bucket size (or
    the sizes 1 and `max_rows`) before it gets traffic.
    """

    policy: VersionPolicy = dataclasses.field(default_factory=VersionPolicy)
    threads: int = 1
    limits: BatchLimits = dataclasses.field(default_factory=BatchLimits)
    warm_up: bool = True
    generation: Generation = dataclasses.field(default_factory=Generation)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Batching(_Part):
    """The table `[batching]`: the fields of `BatchLimits`."""

    max_rows: int | None = Field(None, ge=1)
    max_wait_ms: float | None = Field(None, ge=0)
    preferred_rows: tuple[int, ...] | None = None
    bucket_rows: tuple[int, ...] | None = None
    queue_limit: int | None = Field(None, ge=0)
    default_timeout_ms: float | None = Field(None, ge=0)
    priorities: int | None = Field(None, ge=1, le=64)


class Generating(_Part):
    """The table `[generation]`: the fields of `Generation`."""

    slots: int | None = Field(None, ge=0, le=4096)
    slot_tokens: int | None = Field(None, ge=0)
    cache_bytes: int | None = Field(None, ge=1)
    step_tokens: int | None = Field(None, ge=1)
    queue_limit: int | None = Field(None, ge=0)
    queue_tokens: int | None = Field(None, ge=0)
    patience_seconds: float | None = Field(None, ge=0)


class ModelConfig(_Part):
    """A model's `config.toml`."""

    versions: Annotated[VersionPolicy | None, BeforeValidator(lambda value: value and parse_policy(value))] = None
    instances: int | None = Field(None, ge=1, le=256)
    threads: int | None = Field(None, ge=1, le=1024)
    warm_up: bool | None = None
    batching: Batching = Field(default_factory=Batching.model_construct)
    generation: Generating = Field(default_factory=Generating.model_construct)

    def over(self, defaults: Serving) -> Serving:
        """Return the defaults with what this file says put over them.

        Raises:
            ConfigInvalid: the numbers do not fit each other.
        """
        given = self.batching.model_dump(exclude_none=True)
        if self.instances is not None:
            given["instances"] = self.instances
        largest = given.get("max_rows", defaults.limits.max_rows)
        for sizes in ("preferred_rows", "bucket_rows"):  # sizes that were chosen for larger batches do not apply
            inherited = tuple(size for size in getattr(defaults.limits, sizes) if size <= largest)
            given.setdefault(sizes, inherited)
        try:
            limits = dataclasses.replace(defaults.limits, **given)
        except ValueError as error:
            raise ConfigInvalid(f"{CONFIG_NAME}: batching: {error}") from error
        return Serving(
            defaults.policy if self.versions is None else self.versions,
            self.threads or max(1, defaults.threads // limits.instances),
            limits,
            defaults.warm_up if self.warm_up is None else self.warm_up,
            dataclasses.replace(defaults.generation, **self.generation.model_dump(exclude_none=True)),
        )


def parse_config(text: str | None) -> ModelConfig:
    """Read a `config.toml`; None is an empty one.

    Raises:
        ConfigInvalid: it is not TOML, or a field is unknown or does not fit.
    """
    try:
        values = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{CONFIG_NAME} is not TOML: {error}") from error
    return read_config(values)


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Read the fields of a `config.toml` from a mapping.

    Raises:
        ConfigInvalid: a field is unknown or does not fit.
    """
    try:
        return ModelConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        unknown = first["type"] == "extra_forbidden"
        message = "unknown field" if unknown else first["msg"].removeprefix("Value error, ")
        raise ConfigInvalid(f"{CONFIG_NAME}: {where}: {message}") from error
