"""The methods of the service but inference, each from its request to its answer."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from service.api.state import State
from service.grpc import inference_pb2 as pb
from service.grpc.codec import read_parameters
from service.oip import describe
from service.oip.control import load_model, unload_model
from service.oip.index import repository_index
from service.oip.log_settings import change_log_settings, read_log_settings
from service.oip.statistics import statistics_of
from service.security.caller import Scope


async def server_live(state: State, request: pb.ServerLiveRequest) -> Message:
    """Answer that the process answers."""
    return pb.ServerLiveResponse(live=True)


async def server_ready(state: State, request: pb.ServerReadyRequest) -> Message:
    """Answer whether every model answers and the service is not about to stop."""
    return pb.ServerReadyResponse(ready=state.is_ready)


async def server_metadata(state: State, request: pb.ServerMetadataRequest) -> Message:
    """Describe the service."""
    return ParseDict(describe.server_metadata(), pb.ServerMetadataResponse())


async def model_ready(state: State, request: pb.ModelReadyRequest) -> Message:
    """Answer that a model answers.

    Raises:
        ServiceError: there is no such model, or it does not answer, and why.
    """
    state.repository.get(request.name, request.version or None)
    return pb.ModelReadyResponse(ready=True)


async def model_metadata(state: State, request: pb.ModelMetadataRequest) -> Message:
    """Describe a model's tensors.

    Raises:
        ServiceError: there is no such model, or it does not answer.
    """
    model = state.repository.get(request.name, request.version or None)
    found = describe.model_metadata(model, state.repository.versions(request.name))
    return ParseDict(found, pb.ModelMetadataResponse())


async def model_config(state: State, request: pb.ModelConfigRequest) -> Message:
    """Describe how a model is served.

    Raises:
        ServiceError: there is no such model, or it does not answer.
    """
    model = state.repository.get(request.name, request.version or None)
    return ParseDict({"config": describe.model_config(model, state.settings.max_rows)}, pb.ModelConfigResponse())


async def model_statistics(state: State, request: pb.ModelStatisticsRequest) -> Message:
    """Return the counters of one model, or of all.

    Raises:
        ServiceError: there is no such model, or it does not answer.
    """
    found = statistics_of(state.repository, request.name or None, request.version or None)
    return ParseDict({"model_stats": found}, pb.ModelStatisticsResponse())


async def index(state: State, request: pb.RepositoryIndexRequest) -> Message:
    """List the repository."""
    models = repository_index(state.repository, ready=request.ready)
    return ParseDict({"models": models}, pb.RepositoryIndexResponse())


async def load(state: State, request: pb.RepositoryModelLoadRequest) -> Message:
    """Load a model, or load it again.

    Raises:
        ServiceError: it cannot be loaded, or not on demand.
    """
    await load_model(state.repository, request.model_name, read_parameters(request.parameters))
    return pb.RepositoryModelLoadResponse()


async def unload(state: State, request: pb.RepositoryModelUnloadRequest) -> Message:
    """Unload a model.

    Raises:
        ServiceError: there is no such model, or models are not unloaded on demand.
    """
    await unload_model(state.repository, request.model_name, read_parameters(request.parameters))
    return pb.RepositoryModelUnloadResponse()


async def log_settings(state: State, request: pb.LogSettingsRequest) -> Message:
    """Change the log settings that the request names, and return all of them.

    Raises:
        InvalidFields: a setting cannot be changed so.
    """
    log_format = state.settings.log_format
    wanted = read_parameters(request.settings)
    found = change_log_settings(wanted, log_format) if wanted else read_log_settings(log_format)
    response = pb.LogSettingsResponse()
    for name, value in found.items():
        setting = response.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int):
            setting.uint32_param = value
        else:
            setting.string_param = value
    return response


class Method(NamedTuple):
    """A method that answers one message with one; `scope` is what its callers need, as for the same over HTTP."""

    scope: Scope
    answer: Callable[[State, Any], Awaitable[Message]]


METHODS: Mapping[str, Method] = {
    "ServerLive": Method("public", server_live),
    "ServerReady": Method("public", server_ready),
    "ServerMetadata": Method("infer", server_metadata),
    "ModelReady": Method("infer", model_ready),
    "ModelMetadata": Method("infer", model_metadata),
    "ModelConfig": Method("infer", model_config),
    "ModelStatistics": Method("metrics", model_statistics),
    "RepositoryIndex": Method("infer", index),
    "RepositoryModelLoad": Method("admin", load),
    "RepositoryModelUnload": Method("admin", unload),
    "LogSettings": Method("admin", log_settings),
}
