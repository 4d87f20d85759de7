"""Arrays to the body of an answer: JSON, with binary tensors behind it where they are asked for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import ResultTooLarge
from service.protocol.call import Encoded, InferCall, Limits, OutputWish
from service.protocol.classification import best_classes, bytes_elements
from service.protocol.tensors import count_nonfinite
from service.protocol.view import ModelView, TensorView

JSON = b"application/json"
BINARY = b"application/octet-stream"


def encode(view: ModelView, call: InferCall, arrays: Mapping[str, NDArray[Any]], limits: Limits) -> Encoded:
    """Write the answer of a call from the outputs that `call.names` asked the graph for.

    Numbers that are not finite are null in JSON and counted in the tensor's parameters; binary data has them as they
    are.

    Raises:
        ResultTooLarge: more numbers than one answer may have as JSON.
    """
    answer: dict[str, Any] = {"model_name": view.name, "model_version": view.version}
    if call.id is not None:
        answer["id"] = call.id
    tensors, parts, cells = [], [], 0
    for wish in call.outputs:
        tensor, data = _tensor(view.outputs[wish.name], wish, arrays[wish.name])
        tensors.append(tensor)
        if wish.binary:
            binary = data.tobytes() if isinstance(data, np.ndarray) else bytes_elements(data)
            tensor["parameters"] = {"binary_data_size": len(binary)}
            parts.append(binary)
        else:
            tensor["data"] = data
            cells += len(data)
    if cells > limits.json_cells:
        raise ResultTooLarge(
            f"the answer would have {cells} numbers, {limits.json_cells} are allowed: ask for fewer rows or outputs, "
            "or for binary data",
            cells=cells,
            limit_cells=limits.json_cells,
        )
    answer["outputs"] = tensors
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in header and _count_nulls(tensors):
        header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Encoded((header, *parts), BINARY, len(header)) if parts else Encoded((header,), JSON, None)


def _tensor(
    known: TensorView, wish: OutputWish, array: NDArray[Any]
) -> tuple[dict[str, Any], NDArray[Any] | list[str]]:
    """Return what an answer says of an output, and its elements in a row."""
    if wish.classes:
        best = best_classes(array, wish.classes, known.labels)
        shape = [len(best), len(best[0])]
        return {"name": wish.name, "shape": shape, "datatype": "BYTES"}, [text for row in best for text in row]
    flat = np.ascontiguousarray(array, known.dtype).reshape(-1)
    return {"name": wish.name, "shape": array.shape, "datatype": known.datatype}, flat


def _count_nulls(tensors: list[dict[str, Any]]) -> bool:
    """Say in the parameters of each tensor how many of its numbers JSON gives as null; False if there are none."""
    found = False
    for tensor in tensors:
        data = tensor.get("data")
        if isinstance(data, np.ndarray) and (nonfinite := count_nonfinite(data)):
            tensor["parameters"] = {"nonfinite": nonfinite}
            found = True
    return found
