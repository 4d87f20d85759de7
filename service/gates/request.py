"""What can be asked of gates: the bodies of the gates API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.gates.interventions import Intervention
from service.gates.reductions import Reduction
from service.gates.selection import Index, Positions, Select

MAX_BATCH = 8
MAX_VARIANTS = 64
Token = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Gate = Annotated[float, Field(ge=0, le=2)]


class Asked(BaseModel):
    """A part of a request: what it does not know it refuses."""

    model_config = ConfigDict(extra="forbid")


class GatesTensor(Asked):
    """The model's input tensor; each row of the first axis becomes a result of its own."""

    dtype: Literal["f32"] = "f32"
    shape: list[Annotated[int, Field(strict=True)]] = Field(min_length=1, max_length=16)
    data: list[Any] = Field(description="flat (row-major) or nested like `shape`")


class GatesInputs(Asked):
    """What the model is run on: exactly one of these; texts and token ids for language models, the others for images.

    Several texts are several results, each of its own length.
    """

    prompt: str | list[str] | None = None
    token_ids: list[Token] | list[list[Token]] | None = None
    tensor: GatesTensor | None = None
    image: str | None = Field(default=None, description="PNG, JPEG, GIF, WebP or BMP in base64")

    @model_validator(mode="after")
    def _exactly_one(self) -> "GatesInputs":
        given = [self.prompt, self.token_ids, self.tensor, self.image]
        if sum(each is not None for each in given) != 1:
            raise PydanticCustomError("exactly_one", "give exactly one of prompt, token_ids, tensor and image")
        return self


class LensWish(Asked):
    """Where the lens and the contributions to logits look, for which words, and how many of the likeliest.

    Without positions they are the selected ones. A classifier is read as a whole: its lens has one position.
    """

    top_k: int = Field(default=5, ge=1, le=100)
    positions: Positions | None = None
    targets: Literal["predicted", "next"] | list[Token] = "predicted"

    @model_validator(mode="after")
    def _some(self) -> "LensWish":
        if self.targets == [] or len(self.targets) > 100:
            raise PydanticCustomError("targets", "targets are 1 to 100 ids")
        return self


class Output(Asked):
    """The form of the answer; safetensors is for what is large."""

    format: Literal["json", "safetensors"] = "json"
    dtype: Literal["f32", "f16"] = "f32"
    tokens: bool = True


class _Run(Asked):
    version: str | None = None
    inputs: GatesInputs
    fail_if_busy: bool = False
    deadline_ms: int | None = Field(default=None, ge=1, le=3_600_000)


class GatesRequest(_Run):
    """Which quantities of which sites and positions to answer for one or more inputs, and what to change first."""

    select: Select = Select()
    quantities: str | list[str] = Field(default="core", description="names from the model's gates/meta, or presets")
    reduce: list[Reduction] = Field(default=[Reduction(op="none")], min_length=1, max_length=16)
    interventions: list[Intervention] = Field(default=[], max_length=MAX_VARIANTS)
    mode: Literal["rerun", "frozen"] = "rerun"
    lens: LensWish | None = None
    output: Output = Output()
    seed: int = Field(default=0, description="taken and not needed: nothing is random")


class SweepRequest(_Run):
    """One input, many variants, of each only what it does to the answer.

    Without `variants` each of `sites` is set to each of `values`, one at a time.
    """

    values: list[Gate] = Field(default=[0.0], min_length=1)
    sites: Literal["all"] | list[str | Index] = "all"
    positions: Positions = "all"
    variants: list[list[Intervention]] | None = Field(default=None, min_length=1)
    mode: Literal["rerun", "frozen"] = "rerun"


class CompareRun(Asked):
    """One side of a comparison."""

    version: str | None = None
    inputs: GatesInputs
    interventions: list[Intervention] = Field(default=[], max_length=MAX_VARIANTS)


class CompareRequest(Asked):
    """Two runs of one model: two inputs, two versions, or with and without interventions."""

    runs: list[CompareRun] = Field(min_length=2, max_length=2)
    select: Select = Field(default=Select(), description="layers and sublayers; positions are always all")
    quantities: str | list[str] = "core"
    output: Output = Output()
    fail_if_busy: bool = False
    deadline_ms: int | None = Field(default=None, ge=1, le=3_600_000)
