"""What a manifest says of rewrites, and of the outputs of the graph that tell of them."""

from typing import Literal

from pydantic import Field, model_validator

from service.manifest.tensors import Graph, Part

Sublayer = Literal["attn", "mlp", "conv"]


class Site(Part):
    """One rewrite of the network: `site = 2 * layer + (0 attn | 1 mlp)`; one per layer in a convolutional network."""

    index: int = Field(ge=0)
    name: str
    layer: int = Field(ge=0)
    sublayer: Sublayer
    module: str


class ValueMap(Part):
    """How the target is made from its input: linear, or `scale * sigmoid(linear)`."""

    kind: Literal["linear", "sigmoid"]
    scale: float = 0.0
    input: Literal["context", "x_in", "output"]


class Positions(Part):
    """What the position axis runs over: tokens, patches in rows of `grid[1]`, or nothing: the image is one position."""

    kind: Literal["token", "patch", "image"]
    grid: tuple[int, int] | None = None


class Head(Part):
    """How the network reads classes or words off a state: the tensors in `file`, and what else it takes.

    `file` holds `compressor` (d, dv) or, over tokens, (d, dv, taps), `norm` (d), `weight` (classes, d), and `bias` if
    there is one. A state is compressed, divided by the root of its mean square plus `norm_eps`, times `norm`, averaged
    over positions where the head is `pooled`, and multiplied by `weight` and `scale`.
    """

    file: str
    norm_eps: float = Field(ge=0)
    scale: float = 1.0
    pooled: bool


class Depth(Part):
    """What the algebra over depth needs of one run: graph outputs for raw directions and the first state, the head.

    `directions[site]` is (batch, position, d), `first_state` (batch, position, d, dv), FP32. The graph of a step has
    none of them.
    """

    directions: tuple[str, ...]
    first_state: str
    head: Head


class Gates(Part):
    """What a rewrite tells about itself, and the graph outputs that carry it.

    `outputs[quantity][site]` names a graph output of shape (batch, position) or (batch, position, channel). A site
    with fewer value channels than `value_channels` has zeros behind its own.
    Quantities bear the names of the gates API: beta, beta_logit, v, proj, k_raw_norm. `overrides[site]` names an
    optional graph input that changes the site's gates, FP32 of shape (batch or 1, position or 1, 6); a graph without
    such inputs leaves the field out.
    """

    update_rule: Literal["delta", "write_only", "additive"]
    value_channels: int = Field(ge=1)
    direction_eps: float = Field(ge=0)
    value_map: ValueMap | None
    positions: Positions
    sites: tuple[Site, ...]
    outputs: dict[str, tuple[str, ...]]
    overrides: tuple[str, ...] = ()
    depth: Depth | None = None

    @property
    def carried(self) -> set[str]:
        """Every graph output that tells of gates."""
        depth = () if self.depth is None else (*self.depth.directions, self.depth.first_state)
        return {name for names in self.outputs.values() for name in names} | set(depth)

    @model_validator(mode="after")
    def _one_output_per_site(self) -> "Gates":
        for quantity, names in self.outputs.items():
            if len(names) != len(self.sites):
                raise ValueError(f"{quantity} has {len(names)} outputs for {len(self.sites)} sites")
        if len(self.overrides) not in (0, len(self.sites)):
            raise ValueError(f"overrides names {len(self.overrides)} inputs for {len(self.sites)} sites")
        if self.depth is not None and len(self.depth.directions) != len(self.sites):
            raise ValueError(f"depth.directions names {len(self.depth.directions)} outputs for {len(self.sites)} sites")
        if [site.index for site in self.sites] != list(range(len(self.sites))):
            raise ValueError("sites must be numbered 0, 1, 2, ... in order")
        return self

    def check(self, graph: Graph) -> None:
        """Hold the outputs of a graph to what they are said to carry.

        Raises:
            ValueError: an output is missing, or has another datatype or shape.
        """
        outputs = {spec.name: spec for spec in graph.outputs}
        named = {name for names in self.outputs.values() for name in names}
        if missing := sorted(named - outputs.keys()):
            raise ValueError(f"gates.outputs names {missing[0]!r}, which is no output of the graph")
        for quantity, names in self.outputs.items():
            for spec in (outputs[name] for name in names):
                if spec.datatype != "FP32" or not self._fits(spec.shape):
                    raise ValueError(
                        f"{spec.name!r} carries {quantity}: FP32, (batch, position) or (batch, position, channel)"
                    )

    def check_depth(self, graph: Graph) -> None:
        """Hold the outputs of the graph of whole inputs to what `depth` says of them.

        Raises:
            ValueError: an output is missing, or has another datatype or number of axes.
        """
        if self.depth is None:
            return
        axes = {**dict.fromkeys(self.depth.directions, 3), self.depth.first_state: 4}
        for name, count in axes.items():
            spec = graph.find("output", name, "gates.depth")
            if spec.datatype != "FP32" or len(spec.shape) != count:
                raise ValueError(f"{name!r} must be FP32 with {count} axes, got {spec.datatype} {list(spec.shape)}")

    def _fits(self, shape: tuple[int, ...]) -> bool:
        grid = self.positions.grid
        positions_fit = grid is None or shape[1:2] in ((-1,), (grid[0] * grid[1],))
        return len(shape) in (2, 3) and positions_fit and shape[2:] in ((), (self.value_channels,))
