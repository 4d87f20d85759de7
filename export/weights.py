"""The weights of several graphs in one file: what they have in common is stored once.

The file is ONNX external data. Runtimes map it into memory: every tensor begins at a page.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

_PAGE = 4096
_SMALLEST = 1024
"""Bytes; smaller tensors stay in the graph."""


def move_weights(models: Iterable[ir.Model], file: Path) -> bool:
    """Write the large initializers of all models to `file`, and let the models refer to it.

    The models must then be saved beside it. Tensors with the same bytes share their place, whatever their names and
    shapes are.

    Returns:
        Whether there was anything to write.
    """
    places: dict[bytes, int] = {}
    with file.open("wb") as out:
        for model in models:
            for value in _large(model.graph):
                tensor = value.const_value
                assert tensor is not None
                content = tensor.tobytes()
                digest = hashlib.sha256(content).digest()
                if digest not in places:
                    out.seek(-out.tell() % _PAGE, 1)
                    places[digest] = out.tell()
                    out.write(content)
                value.const_value = ir.ExternalTensor(
                    file.name,
                    places[digest],
                    len(content),
                    tensor.dtype,
                    shape=tensor.shape,  # type: ignore[arg-type]
                    name=value.name or "",
                    base_dir=file.parent,
                )
    if not places:
        file.unlink()
    return bool(places)


def _large(graph: ir.Graph) -> list[ir.Value]:
    """Return the initializers that are worth moving; those that are inputs as well are values to be replaced."""
    inputs = {value.name for value in graph.inputs}
    return [
        value
        for name, value in graph.initializers.items()
        if name not in inputs and value.const_value is not None and value.const_value.nbytes >= _SMALLEST
    ]
