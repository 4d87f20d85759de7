"""What a manifest says of rewrites, and of the outputs of the graph that tell of them."""

from typing import Literal

from pydantic import Field, model_validator

from service.manifest.tensors import Graph, Part


class Site(Part):
    """One rewrite of the network: `site = 2 * layer + (0 attn | 1 mlp)`."""

    index: int = Field(ge=0)
    name: str
    layer: int = Field(ge=0)
    sublayer: Literal["attn", "mlp"]
    module: str


class ValueMap(Part):
    """How the target is made from its input: linear, or `scale * sigmoid(linear)`."""

    kind: Literal["linear", "sigmoid"]
    scale: float = 0.0
    input: Literal["context", "x_in", "output"]


class Positions(Part):
    """What the position axis of a gate quantity runs over: tokens, or patches in rows of `grid[1]`."""

    kind: Literal["token", "patch"]
    grid: tuple[int, int] | None = None


class Gates(Part):
    """What a rewrite tells about itself, and the graph outputs that carry it.

    `outputs[quantity][site]` names a graph output of shape (batch, position) or (batch, position, channel).
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

    @model_validator(mode="after")
    def _one_output_per_site(self) -> "Gates":
        for quantity, names in self.outputs.items():
            if len(names) != len(self.sites):
                raise ValueError(f"{quantity} has {len(names)} outputs for {len(self.sites)} sites")
        if len(self.overrides) not in (0, len(self.sites)):
            raise ValueError(f"overrides names {len(self.overrides)} inputs for {len(self.sites)} sites")
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

    def _fits(self, shape: tuple[int, ...]) -> bool:
        grid = self.positions.grid
        positions_fit = grid is None or shape[1:2] in ((-1,), (grid[0] * grid[1],))
        return len(shape) in (2, 3) and positions_fit and shape[2:] in ((), (self.value_channels,))
