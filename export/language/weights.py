"""Several graphs of one model in one folder, with one file of weights for all."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from export.trace import ExportedGraph

SMALLEST = 1024
"""Tensors of fewer bytes stay in the graph's own file."""

ALIGNMENT = 4096
"""Runtimes map the file into memory, page by page."""


def save_sharing(folder: Path, graphs: Mapping[str, ExportedGraph], weights: str) -> None:
    """Write each graph to its file name in `folder`, and what tensors hold to the file `weights` there, once each.

    The graphs are changed: they read their weights from that file afterwards.
    """
    places: dict[bytes, int] = {}
    with (folder / weights).open("wb") as file:
        for graph in graphs.values():
            for value in graph.model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALLEST:
                    continue
                content = tensor.tobytes()
                key = hashlib.sha256(content).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    places[key] = file.tell()
                    file.write(content)
                value.const_value = ir.ExternalTensor(
                    weights,
                    places[key],
                    len(content),
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=folder,
                )
    for name, graph in graphs.items():
        ir.save(graph.model, folder / name)
