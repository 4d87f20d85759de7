"""Models and requests for the codecs' tests, written from the protocol's specification and not from the codecs."""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest.tensors import Datatype, TensorSpec
from service.protocol.call import Limits, OutputWish
from service.protocol.view import ModelView, TensorView

LIMITS = Limits(max_rows=64, json_cells=10_000)
NUMPY: dict[Datatype, type[np.generic]] = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64}
LABELS = ("cat", "dog", "eel")

Shapes = dict[str, tuple[Datatype, tuple[int, ...]]]


def view(inputs: Shapes, outputs: Shapes | None = None, labels: tuple[str, ...] = LABELS) -> ModelView:
    """Return a model of these tensors; all its outputs are default outputs."""
    outputs = outputs or {"scores": ("FP32", (-1, 3))}
    specs = {name: TensorSpec(name=name, datatype=kind, shape=shape) for name, (kind, shape) in inputs.items()}
    out = {name: TensorSpec(name=name, datatype=kind, shape=shape) for name, (kind, shape) in outputs.items()}
    return ModelView(
        "m",
        "3",
        {name: TensorView.of(spec) for name, spec in specs.items()},
        {name: TensorView.of(spec, labels) for name, spec in out.items()},
        tuple(OutputWish(name) for name in out),
        tuple(OutputWish(name, binary=True) for name in out),
        all(spec.shape[0] == -1 for spec in (*specs.values(), *out.values())),
    )


ONE = view({"x": ("FP32", (-1, 4))})
TWO = view({"x": ("FP32", (-1, 4)), "n": ("INT64", (-1,))})
FIXED = view({"x": ("FP16", (2, 3))}, {"y": ("FP32", (1,))})
TOKENS = view({"tokens": ("INT64", (-1, -1))}, {"logits": ("FP32", (-1, -1, 5))})


def tensor(name: str, array: NDArray[Any], datatype: str, **changes: Any) -> dict[str, Any]:
    """Return an input with its data as JSON."""
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist(), **changes}


def binary_tensor(name: str, array: NDArray[Any], datatype: str, **changes: Any) -> dict[str, Any]:
    """Return an input whose data comes behind the JSON."""
    given = {"name": name, "shape": list(array.shape), "datatype": datatype, **changes}
    return {"parameters": {"binary_data_size": array.nbytes}, **given}


def body_of(request: Any, *arrays: NDArray[Any]) -> tuple[bytes, int]:
    """Return a body with binary tensors and the length of its JSON."""
    header = json.dumps(request).encode()
    return b"".join([header, *(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)]), len(header)


def read_answer(body: bytes, header_length: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an answer's JSON and its outputs: arrays, lists of texts, or lists with None from JSON."""
    answer = json.loads(body[:header_length])
    offset = len(body) if header_length is None else header_length
    found: dict[str, Any] = {}
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = output["data"]
            continue
        data, offset = body[offset : offset + size], offset + size
        if output["datatype"] == "BYTES":
            found[output["name"]] = list(_texts(data))
        else:
            found[output["name"]] = np.frombuffer(data, NUMPY[output["datatype"]]).reshape(output["shape"])
    assert offset == len(body)
    return answer, found


def _texts(data: bytes) -> Any:
    while data:
        (length,) = struct.unpack_from("<I", data)
        yield data[4 : 4 + length].decode()
        data = data[4 + length :]
