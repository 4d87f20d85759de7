"""An answer as safetensors: what is arrays goes into tensors, the rest into the header, so that a body is a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save

MEDIA_TYPE = "application/vnd.safetensors"
METADATA = "ddl.gates"


def as_safetensors(answer: Mapping[str, Any]) -> bytes:
    """Return the body of an answer: tensors by name, and the answer without their data in the metadata.

    Tensors of one input bear the names of quantities, `baseline/` in front of those of the unchanged run; of several
    inputs the number of the input stands before that.
    """
    arrays: dict[str, NDArray[Any]] = {}
    header = dict(answer)
    if "results" in answer:
        results = answer["results"]
        header["results"] = [
            _taken(result, f"{index}/" if len(results) > 1 else "", arrays) for index, result in enumerate(results)
        ]
    else:
        header["tensors"] = _taken_tensors(answer["tensors"], "", arrays)
    text = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return save(arrays, metadata={METADATA: text})


def _taken(result: Mapping[str, Any], prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    taken = {**result, "tensors": _taken_tensors(result["tensors"], prefix, arrays)}
    if result["baseline"] is not None:
        tensors = _taken_tensors(result["baseline"]["tensors"], f"{prefix}baseline/", arrays)
        taken["baseline"] = {**result["baseline"], "tensors": tensors}
    return taken


def _taken_tensors(
    tensors: Mapping[str, Mapping[str, Any]], prefix: str, arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    for name, tensor in tensors.items():
        arrays[prefix + name] = np.ascontiguousarray(tensor["data"])
    return {name: {key: value for key, value in tensor.items() if key != "data"} for name, tensor in tensors.items()}
