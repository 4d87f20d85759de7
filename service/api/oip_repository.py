"""Open Inference Protocol: the model repository extension."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, RootModel
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.body import JSON, media_type, parse_json
from service.api.state import state_of
from service.oip.control import load_model, unload_model
from service.oip.index import repository_index


class IndexRequest(BaseModel):
    """Which lines of the index are wanted."""

    model_config = ConfigDict(extra="forbid")

    ready: bool = False


class IndexLine(Answer):
    """A version in the repository; `reason` says why it does not answer, or not with what its folder holds now."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


class Index(RootModel[list[IndexLine]]):
    """Every version of every model."""


class LoadRequest(BaseModel):
    """How a model is to be loaded; `parameters.config` holds the model's configuration as a JSON text."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = {}


class Done(Answer):
    """It is done; there is nothing more to say."""


async def index(request: Request) -> Response:
    """Every version of every model, its state, and why it does not answer."""
    body = await request.body()
    asked = IndexRequest()
    if body:
        media_type(request, JSON)
        asked = parse_json(body, IndexRequest)
    return json_response(repository_index(state_of(request).repository, ready=asked.ready))


async def load(request: Request, name: str) -> Response:
    """Load a model, or load it again.

    The answer comes when the model answers, and then says so with an empty object. What was being served goes on until
    then, and also if loading fails. Needs the control mode `explicit`.
    """
    await load_model(state_of(request).repository, name, await _parameters(request))
    return json_response({})


async def unload(request: Request, name: str) -> Response:
    """Unload a model, every version of it.

    The answer comes when the requests that came before are answered. Needs the control mode `explicit`.
    """
    await unload_model(state_of(request).repository, name, await _parameters(request))
    return json_response({})


async def _parameters(request: Request) -> dict[str, Any]:
    body = await request.body()
    if not body:
        return {}
    media_type(request, JSON)
    return parse_json(body, LoadRequest).parameters
