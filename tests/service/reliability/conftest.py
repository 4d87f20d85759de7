"""Services that are stopped after each test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.reliability.process import Service


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., Service]]:
    """Return what starts a service over the tiny model."""
    started: list[Service] = []

    def begin(*flags: str, folder: Path = repository, **options: Any) -> Service:
        started.append(Service(folder, *flags, **options))
        return started[-1]

    yield begin
    for service in started:
        service.stop()
