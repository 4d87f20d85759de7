"""The application: wiring and lifespan only."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import __version__
from service.api.context import RequestContext
from service.api.cross_origin import CrossOrigin, cors
from service.api.problems import http_problem, service_problem, validation_problem
from service.api.routes import add_routes
from service.api.state import State
from service.engine.runner import Runner
from service.errors import ServiceError
from service.metrics import Metrics
from service.repository import Repository
from service.repository.from_settings import options_from
from service.security.open import open_guard
from service.settings import Settings
from service.telemetry.open import Telemetry

if TYPE_CHECKING:
    from service.grpc.server import GrpcServer

_logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Build the application; its models are opened when it starts.

    Raises:
        RepositoryEmpty: there is nothing to serve.
        InvalidSettings: what a setting names cannot be used.
    """
    metrics = Metrics()
    runner = Runner(settings.workers, settings.queue_limit)
    repository = Repository(settings.repository, options_from(settings), metrics)
    guard, keeper = open_guard(settings, metrics.access.refused, metrics.access.credentials_failures.inc)
    telemetry = Telemetry(settings, metrics)
    state = State(settings, repository, runner, metrics, guard, telemetry.access)
    metrics.batches.watch_queue(lambda: state.waiting, lambda: state.running)
    metrics.batches.watch_models(state.model_figures)
    metrics.generation.watch(state.generation_figures)
    metrics.gates.watch_live(state.gate_figures)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await repository.start()
        await keeper.once()
        telemetry.start()
        keeping = asyncio.create_task(keeper.run())
        state.loaded = True
        grpc = await _start_grpc(state)
        yield
        state.draining = True
        if grpc is not None:
            await grpc.stop(settings.drain_seconds)
        keeping.cancel()
        await keeper.once()
        models = state.models()
        state.cut_off += metrics.http.in_flight.value  # their time to finish is over
        await repository.stop()
        state.cut_off += sum(model.batcher.running for model in models)
        runner.close()
        state.traces.close()
        await asyncio.to_thread(telemetry.close)

    app = FastAPI(
        title="Deep Delta Serving",
        version=__version__,
        description="Delta networks over HTTP: predictions, and what every gate did.",
        lifespan=lifespan,
        openapi_url=None,  # served by a route of ours, like every other path
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = state
    if settings.cors_origins:
        app.add_middleware(CrossOrigin, **cors(settings.cors_origins))
    app.add_middleware(RequestContext, state=state)
    app.add_exception_handler(ServiceError, service_problem)
    app.add_exception_handler(HTTPException, http_problem)
    app.add_exception_handler(RequestValidationError, validation_problem)
    add_routes(app)
    return app


async def _start_grpc(state: State) -> "GrpcServer | None":
    """Serve gRPC too, if it is wanted."""
    if state.settings.grpc_port < 0:
        return None
    from service.grpc.server import GrpcServer  # costs time and memory that others need not pay

    server = GrpcServer(state)
    await server.start()
    state.grpc_port = server.port
    return server
