"""From a model to an ONNX graph: one `ai.ddl::DeltaRewrite` node per rewrite, its quantities as named outputs."""

import io
import logging
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ddl_model.config import ImageClassifierConfig
from ddl_model.image_classifier import ImageClassifier
from ddl_model.observe import Observer
from export.onnx_delta import DOMAIN, attach_plain_body, delta_rewrite_onnx

OPSET = 23
"""RMSNormalization and Attention are single operators from here on; ONNX Runtime has them from 1.23."""

IR_VERSION = 10
"""Old enough for every ONNX Runtime that the service accepts."""

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


def output_names(sites: list[str]) -> list[str]:
    """Return the names of all graph outputs, in order."""
    return [PROBABILITIES, LOGITS, *(gate_output(site, quantity) for site in sites for quantity in QUANTITIES)]


class WithGates(nn.Module):
    """A classifier that returns probabilities, logits, and every quantity of every rewrite, as `output_names` lists."""

    def __init__(self, model: ImageClassifier) -> None:
        """Wrap the model and put it in eval mode."""
        super().__init__()
        self.model = model.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of one batch."""
        observer = Observer()
        logits = self.model(pixels, observer)
        rewrites = (observer.rewrites[site] for site in self.model.sites)
        traced = (getattr(rewrite, field) for rewrite in rewrites for field in QUANTITIES.values())
        return (logits.softmax(-1), logits, *traced)


@dataclass(frozen=True)
class ExportedGraph:
    """A graph in memory, and how often it uses each custom operator."""

    model: ir.Model
    custom_ops: dict[str, int]

    def save(self, path: str) -> None:
        """Write the ONNX file, weights inside."""
        ir.save(self.model, path)


def unsupported(config: ImageClassifierConfig) -> str | None:
    """Say which field of a config asks for what the fused op and the bundle format have no words for, or None."""
    residual = config.residual
    if residual.rule == "additive":
        return None
    limits = {
        "rule": (residual.rule == "delta", "'delta' or 'additive'"),
        "direction_norm": (residual.direction_norm == "guarded", "'guarded'"),
        "gate": (residual.gate != "grouped", "'linear' or 'two_layer'"),
        "gate_hidden_width": (
            residual.gate != "two_layer" or residual.gate_hidden_width == config.width,
            f"the width, {config.width}, where gate is 'two_layer'",
        ),
        "target_input": (residual.target_input != "output", "'context' or 'compressed'"),
    }
    for name, (supported, allowed) in limits.items():
        if not supported:
            return f"residual.{name} must be {allowed} to be exported, got {getattr(residual, name)!r}"
    return None


def export_graph(model: ImageClassifier) -> ExportedGraph:
    """Trace the model for batches of any size.

    Raises:
        RuntimeError: the config asks for what the op cannot do, torch cannot export the model, or the number of delta
            nodes is not the number of rewrites.
    """
    config = model.config
    if reason := unsupported(config):
        raise RuntimeError(reason)
    example = torch.zeros(2, config.image_channels, config.image_height, config.image_width)
    program = _quietly_export(WithGates(model), example, output_names(model.sites))
    graph = program.model.graph
    _drop_debug_metadata(graph)
    custom = Counter(node.op_type for node in graph if node.domain == DOMAIN)
    if custom.total() != len(model.sites):
        raise RuntimeError(f"the graph has {custom.total()} delta nodes for {len(model.sites)} rewrites")
    program.model.ir_version = IR_VERSION
    if custom:
        attach_plain_body(program.model)
    return ExportedGraph(program.model, dict(custom))


def _quietly_export(module: nn.Module, example: Tensor, outputs: list[str]) -> torch.onnx.ONNXProgram:
    """Run torch's exporter without its progress lines; what it says is shown if it fails."""
    said = io.StringIO()
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={torch.ops.ddl.delta_rewrite.default: delta_rewrite_onnx},
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[PIXELS],
                output_names=outputs,
            )
    except Exception as error:
        raise RuntimeError(f"torch.onnx.export failed: {error}\n{said.getvalue()}") from error
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise RuntimeError(f"torch.onnx.export returned no program\n{said.getvalue()}")
    return program


def _drop_debug_metadata(graph: ir.Graph) -> None:
    """Drop what the exporter keeps for debugging (source lines, module paths): it holds paths of this machine."""
    graph.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
