"""The application: wiring and lifespan only."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import __version__
from service.api.context import RequestContext
from service.api.problems import http_problem, service_problem, validation_problem
from service.api.routes import add_routes
from service.api.state import State
from service.engine.runner import Runner
from service.errors import ServiceError
from service.metrics import Metrics
from service.repository import Repository
from service.runtime.cores import usable_cores
from service.runtime.session import CPU, CUDA
from service.settings import Settings

_logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Build the application; its models are opened when it starts.

    Raises:
        RepositoryEmpty: there is nothing to serve.
    """
    metrics = Metrics()
    runner = Runner(settings.workers, settings.queue_limit)
    metrics.watch_queue(lambda: runner.waiting, lambda: runner.running)
    repository = Repository(
        settings.repository,
        kernel_library=settings.kernel_library,
        provider=CUDA if settings.provider == "cuda" else CPU,
        threads=settings.threads or usable_cores(),
    )
    state = State(settings, repository, runner, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(repository.load)
        _count_models(state)
        state.loaded = True
        yield
        state.draining = True
        runner.close()

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
    app.add_middleware(RequestContext, state=state)
    app.add_exception_handler(ServiceError, service_problem)
    app.add_exception_handler(HTTPException, http_problem)
    app.add_exception_handler(RequestValidationError, validation_problem)
    add_routes(app)
    return app


def _count_models(state: State) -> None:
    """Publish what became of each model."""
    for entry in state.repository.entries():
        labels = (entry.name, entry.version)
        state.metrics.model_ready.labels(*labels).set(entry.state == "ready")
        if (model := entry.loaded) is not None:
            kernel = model.session.kernel
            state.metrics.model_load_seconds.labels(*labels).set(model.load_seconds)
            state.metrics.kernel_info.labels(*labels, kernel.path, kernel.reason).set(1)
            for op in model.manifest.graph.custom_ops:
                state.metrics.kernel_nodes.labels(*labels, op.name, kernel.path).set(op.count)
