"""Forms of the answers of the gates API, `ddl.gates/1`."""

from typing import Any, Literal

from pydantic import Field

from service.api.answers import Answer, Prediction

SCHEMA = "ddl.gates/1"
Rule = Literal["delta", "write_only", "additive"]


class GateSite(Answer):
    """One rewrite of the network."""

    index: int
    name: str
    layer: int
    sublayer: Literal["attn", "mlp", "conv"]
    module: str


class GatePositions(Answer):
    """What the position axis runs over; patches lie in rows of `grid[1]`."""

    kind: Literal["token", "patch", "image"]
    grid: tuple[int, int] | None


class GateTokens(Answer):
    """Every token of an input; a continuation begins inside a character. Texts are null without a tokenizer."""

    ids: list[int]
    text: list[str | None]
    is_special: list[bool]
    is_continuation: list[bool]
    position_offset: int


class GateTensor(Answer):
    """One quantity; `data` is nested like `axes`, what is not finite is null and counted in `nonfinite`."""

    axes: list[Literal["site", "site+1", "position", "channel", "pair", "k", "target"]]
    shape: list[int]
    unit: str
    range: tuple[float | None, float | None]
    dtype: Literal["f32", "f16", "i32"]
    nonfinite: int
    data: list[Any]


class GateWord(Answer):
    """One token and its log-probability."""

    id: int
    text: str | None
    logprob: float | None


class GatePrediction(Answer):
    """The most probable words after `position`, or the most probable classes of the same run."""

    position: int | None
    top: list[GateWord] | list[Prediction]


class GateLens(Answer):
    """The columns of what the head reads, their targets (-1 is none), the text of every id; `bias` of the targets."""

    positions: list[int]
    targets: list[list[int]]
    words: dict[str, str | None]
    bias: list[float] | None


class GateApplied(Answer):
    """What interventions were applied to."""

    cells: int
    sites: int
    beta_before_mean: float | None
    beta_after_mean: float | None


class GateEffect(Answer):
    """What interventions did, by position: KL(unchanged || changed), loss of the next token, likeliest words."""

    mode: Literal["rerun", "frozen"]
    kl_nats: list[float | None]
    delta_nll: list[float | None] | None
    top1_changed: list[bool]
    target_logit_delta: list[float | None]
    top1_before: list[int]
    top1_after: list[int]
    applied: GateApplied
    words: dict[str, str | None]


class GateBaseline(Answer):
    """The run without interventions."""

    prediction: GatePrediction
    tensors: dict[str, GateTensor]


class GatesResult(Answer):
    """The trace of one input; `positions` are the columns of its tensors."""

    tokens: GateTokens | None
    positions: list[int]
    tensors: dict[str, GateTensor]
    reductions: list[dict[str, Any]]
    prediction: GatePrediction
    lens: GateLens | None
    baseline: GateBaseline | None
    effect: GateEffect | None


class GatesIdentity(Answer):
    """Which model answered, and how exactly."""

    schema_: Literal["ddl.gates/1"] = Field(alias="schema")
    model: str
    version: str
    weights_sha256: str
    update_rule: Rule
    dtype: Literal["float32"]
    device: Literal["cpu", "cuda"]
    tolerance: float


class GatesResponse(GatesIdentity):
    """Gate values of each input, the sites that they belong to, and what they were computed on."""

    request_id: str
    sites: list[GateSite]
    positions: GatePositions
    results: list[GatesResult]
    warnings: list[str]
    timing_ms: dict[str, float]


class SweepEffect(Answer):
    """The effect of one variant: means over positions, and at the last one."""

    kl_nats: float | None
    kl_last: float | None
    delta_nll: float | None
    top1_changed: float
    target_logit_delta: float | None


class SweepVariant(Answer):
    """One variant; `site` and `value` where it is one gate, else its interventions."""

    site: str | None
    value: float | None
    interventions: list[dict[str, Any]] | None
    effect: SweepEffect
    prediction: GatePrediction


class SweepBaseline(Answer):
    """The run without interventions, and the mean loss of its tokens."""

    prediction: GatePrediction
    nll: float | None


class SweepResponse(GatesIdentity):
    """What each variant does to the answer."""

    request_id: str
    mode: Literal["rerun", "frozen"]
    sites: list[GateSite]
    tokens: GateTokens | None
    baseline: SweepBaseline
    variants: list[SweepVariant]
    warnings: list[str]
    timing_ms: dict[str, float]


class ComparedRun(Answer):
    """One side of a comparison."""

    version: str
    weights_sha256: str
    tokens: GateTokens | None
    prediction: GatePrediction


class Alignment(Answer):
    """Positions of both sides that belong together."""

    a: list[int]
    b: list[int]


class CompareResponse(GatesIdentity):
    """Quantities of both sides as `a/NAME` and `b/NAME`, and `difference/NAME` (a - b) where they are aligned."""

    request_id: str
    sites: list[GateSite]
    runs: list[ComparedRun]
    alignment: Alignment
    tensors: dict[str, GateTensor]
    warnings: list[str]
    timing_ms: dict[str, float]


class QuantityMeta(Answer):
    """One row of the catalogue; `reason` says why a quantity is not available.

    `cost` is 0 in the forward pass, 1 a closed form, 2 a pass over states, 3 over all directions, 4 the head.
    """

    name: str
    axes: list[Literal["site", "site+1", "position", "channel", "pair", "k", "target"]]
    unit: str
    range: tuple[float | None, float | None]
    definition: str
    cost: int
    available: bool
    reason: str | None
    streams: bool


class ReferenceStats(Answer):
    """What live traffic is compared with."""

    id: str
    created: str
    dataset: str
    sequences: int
    tokens: int


class ReferenceMeta(ReferenceStats):
    """The gates of the audit's data set: `histograms` of 64 bins on [0, 2], by site."""

    histograms: list[list[int]]


class PositionsMeta(Answer):
    """The position axis of every quantity; `count` is null where it is the number of tokens."""

    kind: Literal["token", "patch", "image"]
    grid: tuple[int, int] | None
    count: int | None


class RegimesMeta(Answer):
    """Names for ranges of beta, and the edges between them."""

    names: list[str]
    edges: list[float]


class InterventionsMeta(Answer):
    """Whether gates can be changed, and how."""

    available: bool
    reason: str | None
    ops: list[str]


class GatesLimits(Answer):
    """Largest request and answer."""

    json_cells: int
    binary_cells: int
    max_positions: int
    max_batch: int
    max_variants: int


class GatesMeta(GatesIdentity):
    """What can be asked of a model's gates; `value_grid` where value channels are places of a picture, row by row."""

    task: Literal["image-classification", "language-model"]
    labels: list[str] | None
    has_tokenizer: bool
    vocabulary: int | None
    value_channels: int
    value_grid: tuple[int, int] | None
    direction_eps: float
    value_map: dict[str, Any] | None
    positions: PositionsMeta
    sites: list[GateSite]
    quantities: list[QuantityMeta]
    presets: dict[str, list[str]]
    regimes: RegimesMeta
    interventions: InterventionsMeta
    reference: ReferenceMeta | None
    limits: GatesLimits
