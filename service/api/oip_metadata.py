"""Open Inference Protocol: what the service and its models are."""

from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.state import state_of
from service.oip import describe


class ModelConfig(Answer):
    """How a model is served, in the terms of the model configuration extension."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int = Field(description="most rows of one request; 0 if the first axes are not rows")
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    instance_group: list[dict[str, Any]]
    default_model_filename: str
    parameters: dict[str, dict[str, str]]
    dynamic_batching: dict[str, Any] | None = None


async def server_metadata(request: Request) -> Response:
    """Name, version and protocol extensions of the service."""
    return json_response(describe.server_metadata())


async def model_metadata(request: Request, name: str, version: str | None = None) -> Response:
    """Inputs and outputs of a model.

    503 with the reason if it does not answer.
    """
    repository = state_of(request).repository
    model = repository.get(name, version)
    return json_response(describe.model_metadata(model, repository.versions(name)))


async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    """Readiness of one model; 503 with the reason if it is not."""
    model = state_of(request).repository.get(name, version)
    return json_response({"name": model.name, "ready": True})


async def model_config(request: Request, name: str, version: str | None = None) -> Response:
    """How a model is served: batches, queue, priorities, instances.

    503 with the reason if it does not answer.
    """
    state = state_of(request)
    model = state.repository.get(name, version)
    return json_response(describe.model_config(model, state.settings.max_rows))
