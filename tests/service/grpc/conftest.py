from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.conftest import Client
from tests.service.grpc.client import GrpcClient


@pytest.fixture(scope="session")
def remote(repository: Path) -> Iterator[GrpcClient]:
    """Return a client of an application with its default settings."""
    client = Client(create_app(Settings(repository=repository, grpc_port=0)))
    yield GrpcClient(client)
    client.close()


@pytest.fixture
def serve_grpc(serve: Callable[..., Client]) -> Callable[..., GrpcClient]:
    """Return a function that starts an application with other settings."""

    def start(**settings: Any) -> GrpcClient:
        return GrpcClient(serve(grpc_port=0, **settings))

    return start
