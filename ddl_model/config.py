"""Configurations: frozen dataclasses that are valid once they exist, and their JSON form."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

ResidualRule = Literal["delta", "additive"]
TargetInput = Literal["context", "compressed"]
TargetMap = Literal["linear", "scaled_sigmoid"]
Background = Literal["dark", "bright", "any"]


class ConfigError(ValueError):
    """A field of a configuration has a value that no model can be built with."""


class _Validated:
    """Checks literal-typed fields by their annotation, then whatever `check` adds."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                allowed = ", ".join(map(repr, get_args(hint)))
                raise ConfigError(f"{name} must be one of {allowed}, got {value!r}")
            if hint is int and (not isinstance(value, int) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a whole number, got {value!r}")
            if hint is float and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be a number, got {value!r}")
        self.check()

    def check(self) -> None:
        """Raise ConfigError where fields do not fit together."""

    def require(self, condition: bool, name: str, allowed: str) -> None:
        """Raise ConfigError that names the field, what it may be and what it is, unless `condition` holds."""
        if not condition:
            raise ConfigError(f"{name} must be {allowed}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class ResidualConfig(_Validated):
    """How a sublayer's output enters the state.

    `delta` rewrites the state along it (DDL Eq. 2.2), `additive` adds it to every value channel. The paper makes the
    target from the normalised context, the authors' code from the compressed state before the norm: `target_input`
    chooses. `target_map` `scaled_sigmoid` bounds the target to (0, target_scale). `gate_init` is the gate at the
    start of training, before any token has an influence.
    """

    rule: ResidualRule = "delta"
    value_channels: int = 4
    direction_eps: float = 1e-5
    target_input: TargetInput = "context"
    target_map: TargetMap = "linear"
    target_scale: float = 4.0
    gate_init: float = 1.0

    def check(self) -> None:
        """See the base class."""
        self.require(1 <= self.value_channels <= 64, "value_channels", "between 1 and 64")
        self.require(0 < self.direction_eps < 1, "direction_eps", "above 0 and below 1")
        self.require(self.target_scale > 0, "target_scale", "above 0")
        self.require(0 < self.gate_init < 2, "gate_init", "strictly between 0 and 2")


@dataclass(frozen=True)
class ImageClassifierConfig(_Validated):
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

    def check(self) -> None:
        """See the base class."""
        for name in ("image_height", "image_width"):
            self.require(getattr(self, name) >= self.stride, name, f"at least the stem's stride, {self.stride}")
        self.require(self.pixel_std > 0, "pixel_std", "above 0")
        self.require(len(set(self.labels)) == len(self.labels) >= 2, "labels", "at least 2 different names")
        self.require(
            bool(self.stem_planes) and all(isinstance(p, int) and p > 0 for p in self.stem_planes),
            "stem_planes",
            "a non-empty tuple of positive whole numbers",
        )
        for name in ("width", "layers", "heads", "feedforward_width"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.width % self.heads == 0, "heads", f"a divisor of width ({self.width})")

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

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ImageClassifierConfig":
        """Read the JSON form.

        Raises:
            ConfigError: a field is unknown or has a value that is not allowed.
        """
        values = dict(values)
        if "residual" in values:
            values["residual"] = ResidualConfig(**_known(ResidualConfig, values["residual"]))
        for name in ("labels", "stem_planes"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**_known(cls, values))


def _known(config: type, values: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(config)]
    for name in values:
        if name not in names:
            raise ConfigError(f"{config.__name__} has no field {name!r}; it has {', '.join(names)}")
    return values
