"""Configurations: frozen dataclasses that are valid once they exist, and their JSON form."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

ResidualRule = Literal["delta", "write_only", "additive"]
DirectionForm = Literal["output", "pooled_mlp", "attention_pooled"]
DirectionNorm = Literal["guarded", "exact", "learned_scale"]
GateForm = Literal["linear", "two_layer", "grouped"]
TargetInput = Literal["context", "compressed", "output"]
TargetMap = Literal["linear", "scaled_sigmoid", "constant"]
Expansion = Literal["repeat", "convolution"]
Compressor = Literal["channel", "token"]
ChannelWeights = Literal["direct", "convolution"]
Background = Literal["dark", "bright", "any"]
Activation = Literal["none", "silu", "relu", "elu+1"]
HeadNorm = Literal["none", "group", "output"]


class ConfigError(ValueError):
    """A field of a configuration has a value that no model can be built with."""


class Config:
    """Checks fields by their annotation, then whatever `check` adds; reads and writes JSON objects."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and (value not in get_args(hint) or isinstance(value, bool)):
                allowed = ", ".join(map(repr, get_args(hint)))
                raise ConfigError(f"{name} must be one of {allowed}, got {value!r}")
            if hint is int and (not isinstance(value, int) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a whole number, got {value!r}")
            if hint is float and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a number, got {value!r}")
            if hint is bool and not isinstance(value, bool):
                raise ConfigError(f"{name} must be true or false, got {value!r}")
        self.check()

    def check(self) -> None:
        """Raise ConfigError where fields do not fit together."""

    def require(self, condition: bool, name: str, allowed: str) -> None:
        """Raise ConfigError that names the field, what it may be and what it is, unless `condition` holds."""
        if not condition:
            raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}")

    def at_least(self, least: int, *names: str) -> None:
        """Raise ConfigError for the first of the fields that is below `least`."""
        for name in names:
            self.require(getattr(self, name) >= least, name, f"at least {least}")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read the JSON form.

        Raises:
            ConfigError: a field is unknown or missing, or has a value that is not allowed.
        """
        hints = get_type_hints(cls)
        known: dict[str, Any] = {}
        for name, value in values.items():
            if name not in hints:
                raise ConfigError(f"{cls.__name__} has no field {name!r}; it has {', '.join(hints)}")
            hint = hints[name]
            if isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, dict):
                known[name] = hint.from_dict(value)
            else:
                known[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**known)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error


@dataclass(frozen=True)
class ResidualConfig(Config):
    """How a sublayer's output enters the state.

    `delta` rewrites the state along it (DDL Eq. 2.2), `write_only` writes without erasing (X + beta k v^T, the control
    of DDL section 5), `additive` adds it to every value channel. `gate_init` is the gate at the start of training; a
    `two_layer` gate has a hidden tanh layer of `gate_hidden_width`. The paper makes the target from the normalised
    context, the authors' code from the compressed state before the norm: `target_input` chooses. `scaled_sigmoid`
    bounds the target to (0, target_scale), `constant` fixes every channel of it to `target_value`.

    A `grouped` gate has one linear gate for each of `gate_groups` equal runs of neighbouring value channels. The
    direction is the sublayer's output or, as in the paper's first edition, comes from the state by a generator with a
    hidden layer of `direction_hidden_width`; the output then makes the target, so `target_input` must be `output`.
    `direction_norm`: guarded by `direction_eps`, `exact`, or guarded and then times a length that the site learns,
    which starts at `direction_scale_init`; see `ddl_model.generators` for what this does to the spectrum.
    """

    rule: ResidualRule = "delta"
    direction_eps: float = 1e-5
    gate: GateForm = "linear"
    gate_hidden_width: int = 128
    gate_init: float = 1.0
    target_input: TargetInput = "context"
    target_map: TargetMap = "linear"
    target_scale: float = 4.0
    target_value: float = 2.0
    gate_groups: int = 1
    direction: DirectionForm = "output"
    direction_hidden_width: int = 128
    direction_norm: DirectionNorm = "guarded"
    direction_scale_init: float = 1.0

    def check(self) -> None:
        """See the base class."""
        self.require(0 < self.direction_eps < 1, "direction_eps", "above 0 and below 1")
        self.require(0 < self.direction_scale_init < float("inf"), "direction_scale_init", "above 0 and finite")
        self.require(self.gate_groups == 1 or self.gate == "grouped", "gate_groups", "1 unless gate is 'grouped'")
        self.require(
            self.direction == "output" or self.target_input == "output",
            "target_input",
            f"'output' where direction is {self.direction!r}, or the sublayer's output would go nowhere",
        )
        self.require(0 < self.gate_init < 2, "gate_init", "strictly between 0 and 2")
        self.require(self.target_scale > 0, "target_scale", "above 0")
        self.at_least(1, "gate_hidden_width", "gate_groups", "direction_hidden_width")

    def check_groups(self, value_channels: int) -> None:
        """Raise ConfigError unless the gate's groups divide that many value channels."""
        allowed = f"a divisor of the {value_channels} value channels"
        self.require(value_channels % self.gate_groups == 0, "gate_groups", allowed)

    def check_branch(self) -> None:
        """Raise ConfigError where a network of the first edition, which has no context, cannot follow the rule."""
        if self.rule == "additive":
            return
        generators = "'pooled_mlp' or 'attention_pooled' in a network of the first edition"
        self.require(self.direction != "output", "direction", generators)
        self.require(self.target_map != "constant", "target_map", "'linear' or 'scaled_sigmoid': the branch is it")


def first_edition() -> ResidualConfig:
    """Return the form of the paper's first edition: pooled generators, a gate of two layers, the branch as target."""
    return ResidualConfig(direction="pooled_mlp", gate="two_layer", target_input="output")


@dataclass(frozen=True)
class StateConfig(Config):
    """The state X (d, d_v): how it begins, and how a sublayer's input is made of it.

    `expand`: every value channel starts as a copy of the embedding (`repeat`) or as a causal convolution of the last
    `expand_kernel` embeddings (EC). `compress`: over value channels (CC) or over channels and the last
    `compress_kernel` tokens (TC). The channel compressor's weights per row and channel are learned as they are
    (`direct`), or as a same-padded convolution of `compress_kernel` taps and a read vector, as in the authors' code
    (`convolution`). `shared_compressor`: one per block, as in the authors' code, or one per sublayer, as in the paper.
    """

    value_channels: int = 4
    expand: Expansion = "repeat"
    expand_kernel: int = 4
    compress: Compressor = "channel"
    compress_kernel: int = 4
    channel_weights: ChannelWeights = "direct"
    shared_compressor: bool = False

    def check(self) -> None:
        """See the base class."""
        self.require(1 <= self.value_channels <= 64, "value_channels", "between 1 and 64")
        self.at_least(1, "expand_kernel", "compress_kernel")


@dataclass(frozen=True)
class ImageClassifierConfig(Config):
    """A classifier of image patches: a convolutional stem to tokens, then blocks of attention and SwiGLU.

    `labels` names the classes. Pixels in [0, 1] are normalised by `pixel_mean` and `pixel_std`; `background` says what
    is around the object in the training images, for whoever prepares other images. `stem_planes` has one entry per
    3x3 convolution; each but the first halves the image, and a last one to `width` planes halves it once more.
    """

    labels: tuple[str, ...]
    image_height: int = 28
    image_width: int = 28
    image_channels: Literal[1, 3] = 1
    pixel_mean: float = 0.5
    pixel_std: float = 0.5
    background: Background = "any"
    stem_planes: tuple[int, ...] = (16, 32)
    width: int = 64
    layers: int = 3
    heads: int = 4
    feedforward_width: int = 170
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    state: StateConfig = field(default_factory=StateConfig)

    def check(self) -> None:
        """See the base class."""
        self.require(len(set(self.labels)) == len(self.labels) >= 2, "labels", "at least 2 different names")
        self.require(
            bool(self.stem_planes) and all(isinstance(p, int) and p > 0 for p in self.stem_planes),
            "stem_planes",
            "a non-empty tuple of positive whole numbers",
        )
        for name in ("image_height", "image_width"):
            self.require(getattr(self, name) >= self.stride, name, f"at least the stem's stride, {self.stride}")
        self.require(self.pixel_std > 0, "pixel_std", "above 0")
        self.at_least(1, "width", "layers", "heads", "feedforward_width")
        self.require(self.width % self.heads == 0, "heads", f"a divisor of width ({self.width})")
        if self.state.compress != "channel" or self.state.expand != "repeat":
            raise ConfigError("state.compress and state.expand must be 'channel' and 'repeat': patches have no past")
        self.residual.check_groups(self.state.value_channels)

    @property
    def stride(self) -> int:
        """Pixels per token along each side."""
        return int(2 ** len(self.stem_planes))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens that the stem makes of an image."""
        rows, columns = self.image_height, self.image_width
        for _ in self.stem_planes:
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        return rows, columns


@dataclass(frozen=True)
class AttentionConfig(Config):
    """Causal multi-head attention; `heads * head_width` need not be the model's width.

    Rotary embedding covers the first `rotary_fraction` of each head (made even), and comes before the learned RMSNorm
    on queries and keys (`query_key_norm`). A shift mixes each key or value with that of the token before, by a learned
    share per head. `head_norm` is an RMSNorm on each head's output: `group` always, `output` as part of the output
    gate (with `head_norm_eps`); `output_gate` multiplies the heads by silu of a projection.
    """

    heads: int = 6
    head_width: int = 128
    rotary_base: float = 10000.0
    rotary_fraction: float = 1.0
    query_key_norm: bool = True
    query_activation: Activation = "none"
    key_activation: Activation = "none"
    value_activation: Activation = "none"
    key_shift: bool = False
    value_shift: bool = False
    output_gate: bool = False
    head_norm: HeadNorm = "none"
    head_norm_eps: float = 1e-5

    def check(self) -> None:
        """See the base class."""
        self.at_least(1, "heads", "head_width")
        self.require(0 <= self.rotary_fraction <= 1, "rotary_fraction", "between 0 and 1")
        self.require(self.rotary_base > 1, "rotary_base", "above 1")
        self.require(self.head_norm_eps > 0, "head_norm_eps", "above 0")

    @property
    def rotated(self) -> int:
        """Dimensions of each head that rotate."""
        return int(self.head_width * self.rotary_fraction) // 2 * 2


@dataclass(frozen=True)
class LanguageModelConfig(Config):
    """A decoder-only transformer with a tied head.

    Weights start normal: embeddings with `embedding_std`, output projections with
    `hidden_std_factor / sqrt(width * layers)`, all other matrices and kernels with `hidden_std_factor / sqrt(width)`.
    """

    vocab_size: int = 50304
    layers: int = 12
    width: int = 768
    feedforward_width: int = 2048
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    residual: ResidualConfig = field(default_factory=ResidualConfig)
    state: StateConfig = field(default_factory=StateConfig)
    norm_eps: float = 1e-5
    logits_scale: float = 1.0
    embedding_std: float = 0.02
    hidden_std_factor: float = 0.5

    def check(self) -> None:
        """See the base class."""
        self.at_least(1, "vocab_size", "layers", "width", "feedforward_width")
        for name in ("norm_eps", "logits_scale", "embedding_std", "hidden_std_factor"):
            self.require(getattr(self, name) > 0, name, "above 0")
        self.residual.check_groups(self.state.value_channels)


@dataclass(frozen=True)
class DeltaResNetConfig(Config):
    """A convolutional network of residual blocks in the form of the paper's first edition.

    `labels` names the classes; pixels and `background` are as in `ImageClassifierConfig`. Stage i has `blocks` blocks
    of `planes[i]` planes; each stage but the first begins with a convolution that halves the image. Gate groups are
    runs of positions in the order of rows, so they must divide the positions of every stage.
    """

    labels: tuple[str, ...]
    image_height: int = 28
    image_width: int = 28
    image_channels: Literal[1, 3] = 1
    pixel_mean: float = 0.5
    pixel_std: float = 0.5
    background: Background = "any"
    planes: tuple[int, ...] = (16, 32, 64)
    blocks: int = 2
    residual: ResidualConfig = field(default_factory=first_edition)

    def check(self) -> None:
        """See the base class."""
        self.require(len(set(self.labels)) == len(self.labels) >= 2, "labels", "at least 2 different names")
        self.require(
            bool(self.planes) and all(isinstance(p, int) and p > 0 for p in self.planes),
            "planes",
            "a non-empty tuple of positive whole numbers",
        )
        self.require(self.pixel_std > 0, "pixel_std", "above 0")
        self.at_least(1, "blocks", "image_height", "image_width")
        self.residual.check_branch()
        for rows, columns in self.grids:
            self.residual.check_groups(rows * columns)

    @property
    def layers(self) -> int:
        """The number of residual blocks, which is that of rewrites."""
        return len(self.planes) * self.blocks

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of each stage's planes."""
        grids = [(self.image_height, self.image_width)]
        for _ in self.planes[1:]:
            rows, columns = grids[-1]
            grids.append(((rows + 1) // 2, (columns + 1) // 2))
        return grids


@dataclass(frozen=True)
class DeltaMLPConfig(Config):
    """A multilayer perceptron of residual blocks in the form of the paper's first edition.

    It classifies vectors of `inputs` numbers, or sequences of them whose positions it averages; `labels` names the
    classes. The state is `width` by `value_channels`; `branch_width` is the hidden width of a block's branch.
    """

    labels: tuple[str, ...]
    inputs: int
    width: int = 64
    value_channels: int = 4
    layers: int = 4
    branch_width: int = 128
    residual: ResidualConfig = field(default_factory=first_edition)

    def check(self) -> None:
        """See the base class."""
        self.require(len(set(self.labels)) == len(self.labels) >= 2, "labels", "at least 2 different names")
        self.at_least(1, "inputs", "width", "layers", "branch_width")
        self.require(1 <= self.value_channels <= 64, "value_channels", "between 1 and 64")
        self.residual.check_branch()
        self.residual.check_groups(self.value_channels)
