"""The Open Inference Protocol as OpenAPI shows it; the codecs in `service/protocol` read and write it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.answers import Answer

Datatype = Literal["FP32", "FP16", "INT64"]
Parameters = dict[str, str | int | float | bool | None]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: Parameters = Field(init=False)


class InferInput(_Asked):
    """A tensor of the request.

    `data` is flat (row-major) or nested like `shape`. Without it `parameters.binary_data_size` says how many bytes
    belong to the tensor behind the JSON, little-endian and row-major, in the order of the inputs.
    """

    name: str = Field(max_length=1024)
    shape: list[Annotated[int, Field(strict=True)]] = Field(min_length=1, max_length=16)
    datatype: str = Field(max_length=1024, description="as the model's metadata says: FP32, FP16 or INT64")
    parameters: Parameters = {}
    data: list[Any] | None = None


class OutputParameters(_Open):
    """How an output is answered; further parameters are passed over."""

    binary_data: Annotated[bool | None, Field(description="bytes behind the JSON instead of `data`")] = None
    classification: Annotated[
        int | None,
        Field(ge=0, le=2**31, description="so many of the best classes, as strings VALUE:INDEX:LABEL, not numbers"),
    ] = None


class InferOutput(_Asked):
    """An output that is asked for by name."""

    name: str = Field(max_length=1024)
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Open):
    """How a request is served; further parameters are passed over."""

    priority: Annotated[int | None, Field(ge=0, le=2**32 - 1, description="1 goes first, 0 is the model's default")] = (
        None
    )
    timeout: Annotated[
        int | None,
        Field(ge=0, le=86_400_000_000, description="microseconds in the queue at most; 0 is the model's default"),
    ] = None
    binary_data_output: Annotated[
        bool | None, Field(description="answer outputs as bytes behind the JSON, unless they say otherwise")
    ] = None


class InferRequest(_Asked):
    """An inference request; without `outputs`, every output is answered but those that carry gates.

    What the body says of the model's name and version is passed over: the path decides.
    """

    id: str | None = Field(None, max_length=256, description="returned as it came")
    model_name: str | None = Field(None, max_length=1024)
    model_version: str | None = Field(None, max_length=1024)
    parameters: RequestParameters = RequestParameters()
    inputs: list[InferInput]
    outputs: list[InferOutput] | None = Field(None, min_length=1)


class TensorParameters(Answer):
    """What the JSON of a tensor does not hold: bytes behind it, or numbers that are not finite and given as null."""

    binary_data_size: int | None = None
    nonfinite: int | None = None


class InferredTensor(Answer):
    """A tensor of the answer; classes have the datatype BYTES."""

    name: str
    shape: list[int]
    datatype: Literal["FP32", "FP16", "INT64", "BYTES"]
    parameters: TensorParameters | None = None
    data: list[float | str | None] | None = None


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
    datatype: Datatype
    shape: list[int]


class ModelMetadata(Answer):
    """What a model takes and gives; `versions` are those that answer."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(Answer):
    """The model answers."""

    name: str
    ready: bool
