"""A running application over a tiny bundle, and a client that holds every answer to the OpenAPI document."""

import asyncio
import base64
import io
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from service.api.problems import MEDIA_TYPE, Problem
from service.api.routes import ROUTES, Route
from service.api.state import State
from service.app import create_app
from service.engine.batcher import Batcher
from service.runtime.session import OrtSession
from service.settings import Settings
from tests.service.tiny_bundle import HEIGHT, WIDTH, BundleMaker


class Client:
    """A synchronous client of one application in this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.state: State = app.state.service
        self._has_ended = False
        self._loop = asyncio.Runner()
        self._lifespan = app.router.lifespan_context(app)
        self._loop.run(self._enter())
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")

    async def _enter(self) -> None:
        await self._lifespan.__aenter__()

    async def leave(self) -> None:
        """End the application."""
        if not self._has_ended:
            self._has_ended = True
            await self._http.aclose()
            await self._lifespan.__aexit__(None, None, None)

    def close(self) -> None:
        self._loop.run(self.leave())
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        """Run something on the application's event loop."""
        return self._loop.run(coroutine)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.arequest(method, path, **options))

    async def arequest(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = await self._http.request(method, path, **options)
        check_documented(method, response)
        return response

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


class Blocker:
    """Occupies every worker until it is let go."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open = threading.Event()

    async def __aenter__(self) -> None:
        runner = self._client.state.runner
        self._tasks = [asyncio.create_task(runner.run(lambda: self._open.wait(20))) for _ in range(runner.workers)]
        await until(lambda: runner.running == runner.workers)

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        await asyncio.gather(*self._tasks)


class BusyModel:
    """Lets the first run of the model `tiny` wait until it is let go; other requests queue up behind it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open = threading.Event()

    async def __aenter__(self) -> Batcher:
        model = self._client.state.repository.get("tiny")
        run = model.session.run
        assert isinstance(model.session, OrtSession)

        def late(*arguments: Any, **options: Any) -> Any:
            self._open.wait(20)
            return run(*arguments, **options)

        model.session.run = late  # type: ignore[method-assign]
        pixels = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
        self._first = asyncio.create_task(model.batcher.run({"pixels": pixels}, ["logits"]))
        await until(lambda: model.batcher.running == 1)
        return model.batcher

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        await self._first


async def until(condition: Callable[[], Any]) -> None:
    """Let the event loop turn until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.001)


def check_documented(method: str, response: httpx.Response) -> None:
    """Hold an answer to its row in the table of routes: status, media type, every field of the body."""
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", response.headers["x-request-id"])
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if response.status_code >= 400:
        assert media_type == MEDIA_TYPE
        problem = Problem.model_validate_json(response.content)
        assert problem.status == response.status_code
        assert problem.request_id == response.headers["x-request-id"]
        assert problem.type.startswith("urn:ddl:problem:")
        assert problem.detail
    route = find_route(method, response.url.path)
    if route is None:
        return
    assert response.status_code in (200, *route.statuses()), (route.path, response.status_code, response.text)
    if response.status_code == 200 and route.answer is not None:
        length = response.headers.get("inference-header-content-length")
        if media_type == "text/event-stream":
            assert route.body is not None
            assert route.body.stream is not None
            check_chunks(route.body.stream, response.text)
            return
        if route.body is not None and media_type == route.body.file:
            return
        assert media_type == ("application/json" if length is None else "application/octet-stream")
        route.answer.model_validate_json(response.content if length is None else response.content[: int(length)])


def check_chunks(chunk: type[BaseModel], text: str) -> None:
    """Hold a stream to its form: each event is a chunk, or an error before the end, and the end is said."""
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for number, event in enumerate(events, 1):
        assert event.startswith("data: ")
        if event.startswith('data: {"error"'):
            assert number == len(events)
        else:
            chunk.model_validate_json(event.removeprefix("data: "))


def find_route(method: str, path: str) -> Route | None:
    """Return the route of a path, if the path is one of ours."""
    for route in ROUTES:
        pattern = re.sub(r"\{[a-z]+\}", "[^/]+", route.path)
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None


@pytest.fixture(scope="session")
def maker() -> BundleMaker:
    """Return what writes tiny bundles."""
    return BundleMaker()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, maker: BundleMaker) -> Path:
    """Return a repository with one good bundle; tests must not change it."""
    root = tmp_path_factory.mktemp("repository")
    maker.write(root)
    return root


@pytest.fixture(scope="session")
def client(repository: Path) -> Iterator[Client]:
    """Return a client of the application with its default settings, on the kernel where it is built."""
    client = Client(create_app(Settings(repository=repository)))
    yield client
    client.close()


@pytest.fixture
def serve(repository: Path) -> Iterator[Callable[..., Client]]:
    """Return a function that starts an application with other settings."""
    started: list[Client] = []

    def start(**settings: Any) -> Client:
        started.append(Client(create_app(Settings(**{"repository": repository, **settings}))))
        return started[-1]

    yield start
    for client in started:
        client.close()


@pytest.fixture
def pixels() -> np.ndarray:
    """Return one input of the tiny model."""
    return np.random.default_rng(3).standard_normal((1, 1, HEIGHT, WIDTH)).astype(np.float32)


def png(array: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    """Encode an array as PNG."""
    return encode(Image.fromarray(array, mode) if mode is None else Image.fromarray(array).convert(mode), **options)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    """Encode bytes for JSON."""
    return base64.b64encode(data).decode()
