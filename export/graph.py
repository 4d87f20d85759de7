"""From an image classifier to its graph: one custom node per rewrite, its quantities as named outputs.

A convolutional network's rewrites are standard operators: their targets are maps, which no fused op makes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddl_model.config import DeltaResNetConfig, ImageClassifierConfig, ResidualConfig
from ddl_model.delta_op import OVERRIDE_FIELDS
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.observe import Observer
from export.ops.contract import REWRITES
from export.ops.translate import custom_nodes
from export.trace import ExportedGraph, trace

PIXELS = "pixels"
PROBABILITIES = "probabilities"
LOGITS = "logits"

QUANTITIES = {
    "beta": "beta",
    "beta_logit": "gate_logit",
    "v": "target",
    "proj": "readout",
    "k_raw_norm": "direction_norm",
}
"""Names of the gates API, and the fields of `ddl_model.delta_op.DeltaRewrite` that they are."""


def gate_output(site: str, quantity: str) -> str:
    """Return the name of the graph output that carries a quantity of one rewrite."""
    return f"gates/{site}/{quantity}"


def override_input(site: str) -> str:
    """Return the name of the graph input that changes the gates of one rewrite."""
    return f"overrides/{site}"


def output_names(sites: Sequence[str]) -> list[str]:
    """Return the names of all graph outputs, in order."""
    return [PROBABILITIES, LOGITS, *gate_outputs(sites)]


def gate_outputs(sites: Sequence[str]) -> list[str]:
    """Return the names of the outputs that carry quantities, in order."""
    return [gate_output(site, quantity) for site in sites for quantity in QUANTITIES]


def traced(observer: Observer, sites: Sequence[str]) -> list[Tensor]:
    """Return what an observer saw, in the order of `gate_outputs`.

    Sites with fewer value channels than others get zeros behind theirs: lengths and products stay what they are.
    """
    rewrites = [observer.rewrites[site] for site in sites]
    channels = max((rewrite.target.shape[-1] for rewrite in rewrites), default=0)
    return [_padded(getattr(rewrite, field), field, channels) for rewrite in rewrites for field in QUANTITIES.values()]


def _padded(values: Tensor, field: str, channels: int) -> Tensor:
    lacking = channels - values.shape[-1] if field in ("target", "readout") else 0
    return nn.functional.pad(values, (0, lacking)) if lacking else values


class WithGates(nn.Module):
    """A classifier that returns probabilities, logits, and every quantity of every rewrite, as `output_names` lists."""

    def __init__(self, model: ImageClassifier | DeltaResNet) -> None:
        """Wrap the model and put it in eval mode."""
        super().__init__()
        self.model = model.eval()

    def forward(self, pixels: Tensor, overrides: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Return the outputs of one batch; `overrides` (batch, position, 6) change the gates, one for each site."""
        sites = self.model.sites
        observer = Observer(overrides=dict(zip(sites, overrides, strict=True)) if overrides else {})
        logits = self.model(pixels, observer)
        return (logits.softmax(-1), logits, *traced(observer, sites))


def unsupported(residual: ResidualConfig) -> str | None:
    """Say which field of a config asks for what the fused ops and the bundle format have no words for, or None."""
    if residual.rule == "additive":
        return None
    limits = {
        "direction_norm": (residual.direction_norm == "guarded", "'guarded'"),
        "gate": (residual.gate != "grouped", "'linear' or 'two_layer'"),
    }
    for name, (supported, allowed) in limits.items():
        if not supported:
            return f"residual.{name} must be {allowed} to be exported, got {getattr(residual, name)!r}"
    return None


def export_graph(model: ImageClassifier | DeltaResNet) -> ExportedGraph:
    """Trace the model for batches of any size.

    Raises:
        RuntimeError: the config asks for what the ops cannot do, torch cannot export the model, or the number of
            rewriting nodes is not the number of rewrites.
    """
    config = model.config
    if reason := unsupported(config.residual):
        raise RuntimeError(reason)
    batch = torch.export.Dim("batch")
    names = [override_input(site) for site in model.sites]
    examples: dict[str, object] = {PIXELS: example_pixels(config)}
    shapes: list[object] = [{0: batch}]
    if names:
        positions = 1 if isinstance(config, DeltaResNetConfig) else config.grid[0] * config.grid[1]
        examples[" ".join(names)] = [torch.zeros(2, positions, len(OVERRIDE_FIELDS)) for _ in names]
        shapes.append([{0: batch} for _ in names])
    graph = trace(WithGates(model), examples, shapes, output_names(model.sites), names)
    if isinstance(model, ImageClassifier):
        name_rewrites(graph, model.sites)
    return graph


def example_pixels(config: ImageClassifierConfig | DeltaResNetConfig) -> Tensor:
    """Return a batch of the right shape; two images, because one would be taken for a fixed size."""
    return torch.zeros(2, config.image_channels, config.image_height, config.image_width)


def name_rewrites(graph: ExportedGraph, sites: Sequence[str]) -> None:
    """Name every rewriting node by its site.

    Raises:
        RuntimeError: the graph has not one rewriting node for each site.
    """
    rewrites = [node for node in custom_nodes(graph.model.graph) if node.op_type in REWRITES]
    if len(rewrites) != len(sites):
        raise RuntimeError(f"the graph has {len(rewrites)} delta nodes for {len(sites)} rewrites")
    for node, site in zip(rewrites, sites, strict=True):
        node.name = site
