"""The same service on several machines: replicas of the application on Ray Serve (extra `cluster`).

    serve run service.cluster:application repository=models replicas=2 max_replicas=8

Each replica is the whole application with a repository, batches and metrics of its own. Ray spreads requests over the
replicas with the shortest queue, starts more of them when they have more to do, and replaces those that die. A request
with the header `serve_multiplexed_model_id: NAME` goes to a replica that has this model open; under `control: explicit`
a replica opens it for its first such request, and closes the one that was not used for the longest time.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.state import State
from service.app import create_app
from service.errors import ServiceError
from service.logs import configure_logs
from service.settings import Settings, load_settings

MODEL_HEADER = b"serve_multiplexed_model_id"


class Cluster(BaseModel):
    """How replicas are made; every other argument is a setting of the service."""

    model_config = ConfigDict(extra="ignore")

    replicas: int = Field(1, ge=1, description="replicas at the start, and the least of them")
    max_replicas: int = Field(8, ge=1, description="most replicas")
    ongoing: float = Field(8, gt=0, description="requests of a replica at which more replicas are started")
    grow_seconds: float = Field(30.0, ge=0, description="time that it must be so before more are started")
    shrink_seconds: float = Field(600.0, ge=0, description="time with less to do before some are ended")
    max_ongoing: int = Field(64, ge=1, description="requests that one replica takes; more wait at the proxies")
    max_queued: int = Field(512, ge=-1, description="requests that wait at one proxy; more are answered 503")
    cpus: float = Field(1.0, ge=0, description="CPUs of a replica, or a part of one")
    gpus: float = Field(0.0, ge=0, description="cards of a replica, or a part of one")
    models: int = Field(3, ge=1, description="models that a replica keeps open by their header")


def application(arguments: dict[str, Any]) -> serve.Application:
    """Build the deployment from `arguments`: the fields of `Cluster`, and settings of the service by their names.

    Raises:
        InvalidSettings: a name is no setting, or its value does not fit.
        ValidationError: a field of `Cluster` does not fit.
    """
    cluster = Cluster(**arguments)
    given = {name: value for name, value in arguments.items() if name not in Cluster.model_fields}
    # Callers come by Ray's proxies: whoever they are, they are not on this machine. A port of ours is not opened.
    given = {"host": "0.0.0.0", "threads": max(1, int(cluster.cpus))} | given
    settings = load_settings([f"--{name.replace('_', '-')}={value}" for name, value in given.items()])

    def build() -> ASGIApp:
        configure_logs(settings.log_level, settings.log_format)
        return replica(settings, cluster.models)

    deployment = serve.deployment(
        name="deep-delta",
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        max_ongoing_requests=cluster.max_ongoing,
        max_queued_requests=cluster.max_queued,
        autoscaling_config={
            "min_replicas": cluster.replicas,
            "initial_replicas": cluster.replicas,
            "max_replicas": max(cluster.replicas, cluster.max_replicas),
            "target_ongoing_requests": cluster.ongoing,
            "upscale_delay_s": cluster.grow_seconds,
            "downscale_delay_s": cluster.shrink_seconds,
        },
        graceful_shutdown_timeout_s=settings.drain_seconds,
        health_check_period_s=5,
        health_check_timeout_s=10,
    )

    @serve.ingress(build)
    class Replica:
        """One application."""

    bound: serve.Application = deployment(Replica).bind()
    return bound


def replica(settings: Settings, models: int) -> FastAPI:
    """Build one replica's application, which opens models by their header where that is wanted."""
    app = create_app(settings)
    if settings.control == "explicit":
        app.add_middleware(_ByHeader, state=app.state.service, models=models)
    return app


class _Opened:
    """A model that is open because its header was seen; Ray calls `__del__` to close it."""

    def __init__(self, state: State, name: str) -> None:
        self._state, self._name = state, name

    async def __del__(self) -> None:
        await self._state.repository.unload(self._name)


class _ByHeader:
    """Opens the model that a request's header names before the request goes on."""

    def __init__(self, app: ASGIApp, state: State, models: int) -> None:
        self._app = app

        async def open_model(name: str) -> _Opened:
            await state.repository.load(name)
            return _Opened(state, name)

        self._open: Callable[[str], Awaitable[_Opened]] = serve.multiplexed(
            open_model, max_num_models_per_replica=models
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers") or ()).get(MODEL_HEADER, b"").decode("latin-1")
        if scope["type"] == "http" and name:
            with suppress(ServiceError):  # the request's own path answers what is wrong with the model
                await self._open(name)
        await self._app(scope, receive, send)
