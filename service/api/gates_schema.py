"""Bodies of the gates API, `ddl.gates/1`: what can be asked, and the form of the answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.api.answers import Answer, Prediction
from service.gates.selection import Select

SCHEMA = "ddl.gates/1"


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GatesTensor(_Asked):
    """The model's input tensor; each row of the first axis becomes a result of its own."""

    dtype: Literal["f32"] = "f32"
    shape: list[Annotated[int, Field(strict=True)]] = Field(min_length=1, max_length=16)
    data: list[Any] = Field(description="flat (row-major) or nested like `shape`")


class GatesInputs(_Asked):
    """What the model is run on: exactly one of the two fields."""

    tensor: GatesTensor | None = None
    image: str | None = Field(None, description="PNG, JPEG, GIF, WebP or BMP in base64")

    @model_validator(mode="after")
    def _exactly_one(self) -> "GatesInputs":
        if (self.tensor is None) == (self.image is None):
            raise PydanticCustomError("exactly_one", "give exactly one of tensor and image")
        return self


class GatesRequest(_Asked):
    """Which quantities of which sites and positions to answer for an input."""

    version: str | None = None
    inputs: GatesInputs
    select: Select = Select()
    quantities: str | list[str] = Field("core", description="names from the model's gates/meta, or a preset")


class GateSite(Answer):
    """One rewrite of the network."""

    index: int
    name: str
    layer: int
    sublayer: Literal["attn", "mlp"]
    module: str


class GatePositions(Answer):
    """What the position axis runs over; patches lie in rows of `grid[1]`."""

    kind: Literal["token", "patch"]
    grid: tuple[int, int] | None
    index: list[int] = Field(description="the positions of the answer, in its order")


class GateTensor(Answer):
    """One quantity; `data` is nested like `axes`, what is not finite is null and counted in `nonfinite`."""

    axes: list[Literal["site", "position", "channel"]]
    shape: list[int]
    unit: str
    range: tuple[float | None, float | None]
    dtype: Literal["f32"]
    nonfinite: int
    data: list[list[Any]]


class GatePrediction(Answer):
    """The most probable classes of the same run."""

    top: list[Prediction]


class GatesResult(Answer):
    """The trace of one input."""

    tensors: dict[str, GateTensor]
    prediction: GatePrediction


class GatesResponse(Answer):
    """Gate values of each input, the sites and positions that they belong to, and what they were computed on."""

    schema_: Literal["ddl.gates/1"] = Field(alias="schema")
    request_id: str
    model: str
    version: str
    weights_sha256: str
    update_rule: Literal["delta", "write_only", "additive"]
    dtype: Literal["float32"]
    device: Literal["cpu", "cuda"]
    tolerance: float
    sites: list[GateSite]
    positions: GatePositions
    results: list[GatesResult]
    warnings: list[str]
    timing_ms: dict[str, float]


class QuantityMeta(Answer):
    """One row of the catalogue; `reason` says why a quantity is not available."""

    name: str
    axes: list[Literal["site", "position", "channel"]]
    unit: str
    range: tuple[float | None, float | None]
    definition: str
    available: bool
    reason: str | None


class PositionsMeta(Answer):
    """The position axis of every quantity."""

    kind: Literal["token", "patch"]
    grid: tuple[int, int] | None
    count: int


class GatesLimits(Answer):
    """Largest request and answer."""

    json_cells: int
    max_rows: int


class GatesMeta(Answer):
    """What can be asked of a model's gates."""

    schema_: Literal["ddl.gates/1"] = Field(alias="schema")
    model: str
    version: str
    weights_sha256: str
    update_rule: Literal["delta", "write_only", "additive"]
    value_channels: int
    direction_eps: float
    value_map: dict[str, Any] | None
    positions: PositionsMeta
    sites: list[GateSite]
    quantities: list[QuantityMeta]
    presets: dict[str, list[str]]
    limits: GatesLimits
    tolerance: float
    dtype: Literal["float32"]
    device: Literal["cpu", "cuda"]
