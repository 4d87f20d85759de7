"""For admins: where the time goes, what every thread does, what runs here and with which settings."""

import asyncio
import platform
import sys
from importlib.metadata import distributions
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Query
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service import __version__
from service.api.answers import Answer, json_response
from service.api.state import state_of
from service.errors import Overloaded
from service.telemetry.profile import profile, stacks

_profiling = asyncio.Lock()


class Versions(Answer):
    """What runs here."""

    service: str
    python: str
    platform: str
    packages: dict[str, str]


class ChosenSettings(Answer):
    """Every setting and its value; passwords inside URLs are left out."""

    settings: dict[str, Any]


async def debug_profile(
    request: Request,
    seconds: Annotated[float, Query(gt=0, le=60, description="how long to look")] = 5.0,
    per_second: Annotated[int, Query(ge=1, le=1000, description="how often")] = 100,
) -> Response:
    """Sample the stacks of all threads for some seconds.

    Answers collapsed stacks, one a line with its count, for speedscope or a flame graph. One profile at a time.
    """
    if _profiling.locked():
        raise Overloaded("another profile is being taken", retry_after_seconds=5)
    async with _profiling:
        return PlainTextResponse(await asyncio.to_thread(profile, seconds, per_second))


async def debug_threads(request: Request) -> Response:
    """Show the stack of every thread."""
    return PlainTextResponse(stacks())


async def debug_settings(request: Request) -> Response:
    """Show every setting as the service understood it."""
    settings = state_of(request).settings.model_dump(mode="json")
    return json_response({"settings": {name: _without_password(value) for name, value in settings.items()}})


async def debug_versions(request: Request) -> Response:
    """Show the versions of the service, Python and every installed package."""
    packages = {found.metadata["Name"]: found.version for found in distributions()}
    answer = {
        "service": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }
    return json_response(answer)


def _without_password(value: object) -> object:
    if not isinstance(value, str) or "@" not in value or "://" not in value:
        return value
    parts = urlsplit(value)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
