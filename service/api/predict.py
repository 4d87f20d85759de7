"""Open Inference Protocol, version 2, over JSON: metadata, readiness, inference."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api.answers import Answer, encode, json_response
from service.api.body import JSON, media_type, parse_json
from service.api.state import in_worker, state_of
from service.api.tensors import check_shape, count_nonfinite, to_array
from service.bundle import Manifest, TensorSpec
from service.errors import InvalidTensor, ResultTooLarge, UnsupportedMedia
from service.repository import Loaded
from service.settings import Settings

Parameters = dict[str, str | int | float | bool | None]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InferInput(_Asked):
    """A tensor of the request; `data` is flat (row-major) or nested like `shape`."""

    name: str
    shape: list[Annotated[int, Field(strict=True)]] = Field(min_length=1, max_length=16)
    datatype: str = Field(description="FP32 or INT64, as the model's metadata says")
    parameters: Parameters = {}
    data: list[Any]


class InferOutput(_Asked):
    """An output that is asked for by name."""

    name: str
    parameters: Parameters = {}


class InferRequest(_Asked):
    """An inference request; without `outputs`, every output is answered but those that carry gates."""

    id: str | None = Field(None, max_length=256, description="returned as it came")
    parameters: Parameters = {}
    inputs: list[InferInput]
    outputs: list[InferOutput] | None = Field(None, min_length=1)


class InferredTensor(Answer):
    """A tensor of the answer; what is not finite is null, and counted in `parameters.nonfinite`."""

    name: str
    shape: list[int]
    datatype: Literal["FP32", "INT64"]
    parameters: dict[str, int] | None = None
    data: list[float | None]


class InferResponse(Answer):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferredTensor]


class ServerMetadata(Answer):
    """Name, version and protocol extensions of the service."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Answer):
    """A tensor of the graph; -1 is an axis of any length."""

    name: str
    datatype: Literal["FP32", "INT64"]
    shape: list[int]


class ModelMetadata(Answer):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Answer):
    """The model answers."""

    name: str
    ready: bool


async def server_metadata(request: Request) -> Response:
    """Name and version of the service."""
    return json_response({"name": "deep-delta-serving", "version": __version__, "extensions": []})


async def model_metadata(request: Request, name: str, version: str | None = None) -> Response:
    """Inputs and outputs of a model.

    503 with the reason if its bundle was refused.
    """
    model = state_of(request).repository.get(name, version)
    return json_response(
        {
            "name": model.name,
            "versions": [model.version],
            "platform": "onnxruntime_onnx",
            "inputs": [_tensor(spec) for spec in model.manifest.graph.inputs],
            "outputs": [_tensor(spec) for spec in model.manifest.graph.outputs],
        }
    )


async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    """Readiness of one model; 503 with the reason if it is not."""
    model = state_of(request).repository.get(name, version)
    return json_response({"name": model.name, "ready": True})


async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Run a model on tensors.

    Without `outputs`, every output is answered but those that carry gates; name these to get them.
    """
    state = state_of(request)
    model = state.repository.get(name, version)
    media_type(request, JSON)
    if "inference-header-content-length" in request.headers:
        raise UnsupportedMedia("binary tensors are not read here; send their data as JSON (binary_data=False)")
    body = await request.body()
    return Response(
        await in_worker(request, lambda: _infer(model, body, state.settings)), media_type="application/json"
    )


def _infer(model: Loaded, body: bytes, settings: Settings) -> bytes:
    asked = parse_json(body, InferRequest)
    names = _outputs(asked, model.manifest)
    feeds = _feeds(asked, model.manifest, settings.max_rows)
    outputs = model.session.run(feeds, names)
    cells = sum(array.size for array in outputs.values())
    if cells > settings.json_cells:
        raise ResultTooLarge(
            f"the answer would have {cells} numbers, {settings.json_cells} are allowed: ask for fewer rows or outputs",
            cells=cells,
            limit_cells=settings.json_cells,
        )
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if asked.id is not None:
        answer["id"] = asked.id
    datatypes = {spec.name: spec.datatype for spec in model.manifest.graph.outputs}
    answer["outputs"] = [_answered(name, datatypes[name], outputs[name]) for name in names]
    return encode(answer)


def _outputs(asked: InferRequest, manifest: Manifest) -> list[str]:
    known = [spec.name for spec in manifest.graph.outputs]
    if asked.outputs is None:
        gates = {name for names in (manifest.gates.outputs.values() if manifest.gates else ()) for name in names}
        return [name for name in known if name not in gates]
    names = list(dict.fromkeys(output.name for output in asked.outputs))
    for name in names:
        if name not in known:
            raise InvalidTensor(f"no output {name[:64]!r}; known: {', '.join(known)}", known=known)
    return names


def _feeds(asked: InferRequest, manifest: Manifest, max_rows: int) -> dict[str, NDArray[Any]]:
    specs = {spec.name: spec for spec in manifest.graph.inputs}
    feeds: dict[str, NDArray[Any]] = {}
    for given in asked.inputs:
        if given.name not in specs:
            raise InvalidTensor(f"no input {given.name[:64]!r}; known: {', '.join(specs)}", known=list(specs))
        if given.name in feeds:
            raise InvalidTensor(f"input {given.name!r} is given twice")
        check_shape(specs[given.name], given.datatype, given.shape, max_rows)
        feeds[given.name] = to_array(given.name, given.data, given.shape, given.datatype)
    if missing := [name for name in specs if name not in feeds]:
        raise InvalidTensor(f"input {missing[0]!r} is missing", known=list(specs))
    return feeds


def _answered(name: str, datatype: str, array: NDArray[Any]) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
    if nonfinite := count_nonfinite(array):
        tensor["parameters"] = {"nonfinite": nonfinite}
    tensor["data"] = np.ascontiguousarray(array).reshape(-1)
    return tensor


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
