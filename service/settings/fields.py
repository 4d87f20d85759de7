"""Everything that an operator can choose, in groups; the first line of a group's docstring is its title in `--help`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "DDL_"

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


def _split(value: Any) -> Any:
    """Take `a, b` from a variable or a flag for the list that a file writes as `["a", "b"]`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several words: separated by commas in variables and flags."""


Sizes = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_split)]
"""Several numbers: separated by commas in variables and flags."""


def _split_scopes(value: Any) -> Any:
    return () if value == "none" else value if value == "auto" else _split(value)


ScopeNames = tuple[Literal["infer", "gates", "metrics", "admin"], ...]


def _path_or_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Listening(BaseModel):
    """Listening."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 lets the system choose one")
    grpc_port: int = Field(
        -1, ge=-1, le=65535, description="TCP port of gRPC, usually 8001; 0 lets the system choose one, -1 is no gRPC"
    )
    tls_certificate: Path | None = Field(None, description="PEM file of the certificate chain; turns HTTPS on")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities; clients must then show a certificate of theirs"
    )
    trusted_proxies: Names = Field(
        (), description="addresses or networks whose X-Forwarded-For is believed; nobody's by default"
    )


class Models(BaseModel):
    """Models and their runtime."""

    repository: Annotated[str, BeforeValidator(_path_or_text)] = Field(
        "models", description="folder of bundles, NAME/VERSION/ inside, or a store's URL such as s3://bucket/models"
    )
    kernel_library: str = Field(
        "auto", description="op library: auto (the one built into the package), off (plain bodies), or a path"
    )
    provider: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the models; auto is cpu")
    threads: int = Field(
        0, ge=0, le=1024, description="threads of one model run; 0 takes every core that the process may use"
    )
    workers: int = Field(2, ge=1, le=256, description="model runs at the same time")
    queue_limit: int = Field(
        512, ge=0, description="requests that may wait for a model or a worker; more are answered 503"
    )


class Repository(BaseModel):
    """Model repository."""

    control: Literal["none", "poll", "explicit"] = Field(
        "none", description="none: load at the start alone; poll: follow changes; explicit: load and unload on demand"
    )
    poll_seconds: float = Field(15.0, gt=0, le=86400, description="time between two looks at the repository")
    startup_models: Names = Field(
        ("*",), description="models to load at the start under explicit control; * is all, none is no model"
    )
    version_policy: str = Field(
        "latest", description="versions that are served: latest, latest:2, all, or numbers; config.toml may differ"
    )
    signatures: Literal["off", "required"] = Field(
        "off", description="required: only bundles that a trusted key has signed (ddl-sign) are served"
    )
    trusted_keys: Names = Field((), description="public keys of ddl-sign or minisign: lines RW..., files, or folders")
    memory_limit_bytes: int = Field(
        0, ge=0, description="memory of all models, estimated by their files; more is refused; 0 is no limit"
    )
    load_seconds: float = Field(
        60.0, gt=0, le=3600, description="longest run of a model's golden samples or warm-up before it is refused"
    )
    load_threads: int = Field(2, ge=1, le=64, description="models that are opened at the same time")
    unload_seconds: float = Field(
        30.0, gt=0, le=3600, description="time that a replaced or unloaded version has to answer what is left"
    )
    cache_folder: Path = Field(Path("~/.cache/ddl-serve"), description="folder for bundles of a remote repository")


class Batching(BaseModel):
    """Batching, unless a model's config.toml says otherwise."""

    instances: int = Field(1, ge=1, le=256, description="batches of one model that run at once, each in its session")
    batch_rows: int = Field(32, ge=1, le=65536, description="most rows of a batch; 1 switches batching off")
    batch_wait_ms: float = Field(
        0.0, ge=0, le=60000, description="time that a request may be held back for others, when a worker is free"
    )
    batch_preferred: Sizes = Field((), description="sizes of batches, in rows, for which nothing is held back")
    batch_buckets: Sizes = Field((), description="batches are filled up with zeros to the next of these sizes")
    batch_timeout_ms: float = Field(
        0.0, ge=0, description="time in the queue for requests that give none; 0 is any time"
    )
    priorities: int = Field(3, ge=1, le=64, description="levels of priority, 1 goes first, the middle is the default")
    warm_up: bool = Field(True, description="run each bucket size, or 1 and the largest, before traffic comes")


class Generating(BaseModel):
    """Continuing of texts, unless a model's config.toml says otherwise."""

    generation_slots: int = Field(
        0,
        ge=0,
        le=4096,
        description="answers of a model that grow at once; 0 is 8, or fewer if the cache has no room",
    )
    generation_tokens: int = Field(
        0, ge=0, description="longest text, prompt and answer, in tokens; 0 is what the model was trained on, or 2048"
    )
    generation_cache_bytes: int = Field(
        0,
        ge=0,
        description="memory of a model's cache; 0 is 1 GiB, at most a quarter of memory_limit_bytes",
    )
    generation_step_tokens: int = Field(
        256, ge=1, description="tokens of prompts that are computed in one go, between two tokens of growing answers"
    )
    generation_queue_limit: int = Field(256, ge=0, description="answers that may wait for a slot; more are refused")
    generation_queue_tokens: int = Field(
        1_000_000, ge=0, description="tokens, of prompts and longest answers, that may wait; more are refused"
    )
    generation_patience_seconds: float = Field(
        30.0, ge=0, description="who has waited so long goes up by one level of priority; 0 is never"
    )


class Limits(BaseModel):
    """Limits of one request."""

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="largest request body, in bytes")
    max_image_pixels: int = Field(20_000_000, ge=1, description="largest image, width x height")
    max_rows: int = Field(256, ge=1, description="most rows (first axis) of one inference request")
    json_cells: int = Field(200_000, ge=1, description="most numbers in one JSON answer")
    binary_cells: int = Field(8_000_000, ge=1, description="most numbers in one answer of gates as safetensors")
    gates_positions: int = Field(4096, ge=1, description="longest input, in tokens, whose gates are traced")
    gates_workers: int = Field(1, ge=1, le=64, description="traces of gates that run at once, beside predictions")
    gates_queue_limit: int = Field(8, ge=0, description="traces of gates that may wait; more are refused")
    gates_seconds: float = Field(60.0, gt=0, description="longest time of one trace, in seconds")


class Connections(BaseModel):
    """Limits of connections."""

    max_header_bytes: int = Field(32 * 1024, ge=1024, description="largest head of a request, in bytes")
    max_connections: int = Field(4096, ge=1, description="connections open at once; more are answered 503")
    client_seconds: float = Field(
        30.0, gt=0, le=3600, description="longest time for a client to send a request, or to take nothing of an answer"
    )
    keep_alive_seconds: int = Field(15, ge=1, le=3600, description="time that an idle connection is kept open")


class Access(BaseModel):
    """Access."""

    api_keys: Path | None = Field(None, description="file of API keys, made by ddl-keys; read again when it changes")
    anonymous_scopes: Annotated[ScopeNames | Literal["auto"], NoDecode, BeforeValidator(_split_scopes)] = Field(
        "auto",
        description="scopes without a key: some of infer, gates, metrics, admin, or none; auto is none where keys or "
        "an issuer are configured, else all on a loopback address and all but admin elsewhere",
    )
    cors_origins: Names = Field((), description="origins of web pages that may call the service; none by default")
    rate_limit: float = Field(
        0.0, ge=0, description="requests per second of a caller (a key, a token's subject, an address); 0 is no limit"
    )
    rate_burst: int = Field(0, ge=0, description="requests that may come at once; 0 is one second's worth")
    daily_quota: int = Field(0, ge=0, description="requests per day (UTC) of a caller; 0 is no limit")
    usage_file: Path | None = Field(None, description="file that keeps the day's counts over a restart")
    oidc_issuer: str | None = Field(None, description="issuer of JSON web tokens (extra oidc); turns tokens on")
    oidc_audience: str | None = Field(None, description="audience that tokens must name")
    oidc_keys: str | None = Field(
        None, description="the issuer's JWKS, an https URL or a file; by default what its discovery document names"
    )
    oidc_scope_claim: str = Field("scope", description="claim that lists a token's scopes")
    oidc_scope_prefix: str = Field("", description="what stands before the scopes there: ddl: for ddl:infer")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin; write https://HOST or https://HOST:PORT, without a path"
                )
        return value


class Observation(BaseModel):
    """Logs and telemetry."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["line", "json"] = Field("line", description="line for people, json for collectors")
    access_log: Literal["all", "errors", "off"] = Field(
        "all", description="which requests get a line: all, those answered by 400 or more, none"
    )
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector, http://HOST:4318; turns traces and metrics on (extra otel)"
    )
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="part of the requests without a traceparent that are traced"
    )


class GateStatistics(BaseModel):
    """Statistics of gates."""

    gates_live_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description="part of the time that may go into live statistics of gates; 0 switches them off",
    )
    audits: Path | None = Field(None, description="folder of finished audits (ddl-audit), each in a folder of its own")


class Shutdown(BaseModel):
    """Shutdown."""

    drain_delay_seconds: float = Field(
        0.5, ge=0, le=300, description="after SIGTERM: time that readiness says no before the port closes"
    )
    drain_seconds: int = Field(
        20, ge=0, le=3600, description="after the port closed: time for requests in flight to finish"
    )


GROUPS: tuple[type[BaseModel], ...] = (
    Listening,
    Models,
    Repository,
    Batching,
    Generating,
    Limits,
    Connections,
    Access,
    Observation,
    GateStatistics,
    Shutdown,
)


class Settings(
    Shutdown,
    GateStatistics,
    Observation,
    Access,
    Connections,
    Limits,
    Generating,
    Batching,
    Repository,
    Models,
    Listening,
    BaseSettings,
):
    """Every setting; each is `--field-name`, `DDL_FIELD_NAME`, and `field_name` in a file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Refuse settings that one alone makes no sense, or less safe than it looks."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.oidc_issuer is not None and self.oidc_audience is None:
            raise ValueError("oidc_issuer needs oidc_audience: without it, tokens for other services would be taken")
        if self.oidc_issuer is None and (self.oidc_audience or self.oidc_keys):
            raise ValueError("oidc_audience and oidc_keys need oidc_issuer")
        if self.rate_burst and not self.rate_limit:
            raise ValueError("rate_burst needs rate_limit")
        return self
