"""From a torch module to an ONNX graph in memory, with our operators as single nodes and their bodies attached."""

import io
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ddl_model.delta_op import NO_OVERRIDE
from export.ops.contract import OPS
from export.ops.shapes import shapes_only
from export.ops.translate import attach_plain_bodies, custom_nodes, translation_table

OPSET = 23
"""RMSNormalization and Attention are single operators from here on; ONNX Runtime has them from 1.23."""

IR_VERSION = 10
"""Old enough for every ONNX Runtime that the service accepts."""


@dataclass(frozen=True)
class ExportedGraph:
    """A graph in memory, and how often it uses each custom operator, by name."""

    model: ir.Model
    custom_ops: dict[str, int]

    def save(self, path: str) -> None:
        """Write the ONNX file, weights inside."""
        ir.save(self.model, path)


def trace(
    module: nn.Module,
    inputs: Mapping[str, Any],
    dynamic_shapes: Sequence[Any],
    outputs: Sequence[str],
    overrides: Sequence[str] = (),
) -> ExportedGraph:
    """Trace `module` on example inputs, which it takes in order; a list of tensors among them bears several names.

    Inputs in `overrides` get the override that changes nothing as their value where a caller leaves them out.

    Raises:
        RuntimeError: torch cannot export the module.
    """
    program = _quietly_export(module, tuple(inputs.values()), dynamic_shapes, list(_names(inputs)), list(outputs))
    model = program.model
    _drop_debug_metadata(model.graph)
    for name in overrides:
        _make_optional(model.graph, name)
    _forget_shapes_of(model.graph, overrides)
    _drop_unused_outputs(model.graph)
    model.ir_version = IR_VERSION
    attach_plain_bodies(model)
    return ExportedGraph(model, dict(Counter(node.op_type for node in custom_nodes(model.graph))))


def _names(inputs: Mapping[str, Any]) -> list[str]:
    """Return the names of tensors: a list of tensors has one name for each, between spaces."""
    return [name for names in inputs for name in names.split()]


def _quietly_export(
    module: nn.Module, examples: tuple[Any, ...], dynamic_shapes: Sequence[Any], inputs: list[str], outputs: list[str]
) -> torch.onnx.ONNXProgram:
    """Run torch's exporter without its progress lines; what it says is shown if it fails."""
    said = io.StringIO()
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said), torch.no_grad():
            warnings.simplefilter("ignore")
            with shapes_only():
                program = torch.onnx.export(
                    module,
                    examples,
                    dynamo=True,
                    opset_version=OPSET,
                    custom_translation_table=translation_table(),
                    dynamic_shapes=tuple(dynamic_shapes),
                    input_names=inputs,
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


def _make_optional(graph: ir.Graph, name: str) -> None:
    """Let an override have any number of rows and positions, and be left out: an input with a value of its own."""
    value = next(value for value in graph.inputs if value.name == name)
    value.shape = ir.Shape([f"{name}/rows", f"{name}/positions", len(NO_OVERRIDE)])
    value.const_value = ir.tensor(np.array(NO_OVERRIDE, np.float32).reshape(1, 1, -1), name=name)
    graph.initializers[name] = value


def _forget_shapes_of(graph: ir.Graph, names: Sequence[str]) -> None:
    """Drop the shapes of what is made of these inputs alone: they were traced with shapes that callers may not keep."""
    constant = {value for value in graph.initializers.values() if value.name not in names}
    theirs = {value for value in graph.inputs if value.name in names}
    for node in graph:
        inputs = {value for value in node.inputs if value is not None}
        if inputs <= constant:
            constant.update(node.outputs)
        elif inputs <= constant | theirs:
            theirs.update(node.outputs)
            for value in node.outputs:
                value.shape = None


def _drop_unused_outputs(graph: ir.Graph) -> None:
    """Take the names from outputs of custom nodes that nobody uses: kernels do not compute such outputs."""
    needed = set(graph.outputs)
    for node in custom_nodes(graph):
        op = OPS[node.op_type]
        # A rewrite that is read over tokens reads the new states of earlier tokens, so it must have room for them.
        first = 1 if op.takes_override and op.over_tokens else 0
        for output in node.outputs[first:]:
            if output not in needed and not output.uses():
                output.name = ""
