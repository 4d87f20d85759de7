"""Messages to calls, and arrays to messages."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from service.errors import InvalidRequest, InvalidTensor
from service.grpc import inference_pb2 as pb
from service.protocol.call import InferCall, Limits, Parameter
from service.protocol.classification import best_classes, bytes_elements
from service.protocol.members import count_rows, find_input, read_members
from service.protocol.parameters import refuse_shared_memory
from service.protocol.tensors import check_shape, from_bytes
from service.protocol.view import ModelView, TensorView

M = TypeVar("M", bound=Message)

_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents"}
"""The field of `contents` that has the elements of a datatype; FP16 has none."""


def parse(kind: type[M], data: bytes) -> M:
    """Read a message.

    Raises:
        InvalidRequest: the bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the bytes are no {kind.DESCRIPTOR.full_name}") from error


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return parameters as plain values; one without a value is None."""
    found: dict[str, Parameter] = {}
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(value, kind)
    return found


def decode(request: pb.ModelInferRequest, view: ModelView, limits: Limits) -> InferCall:
    """Turn a request into a call that fits the model.

    Raises:
        InvalidRequest: raw contents are not those of the inputs.
        InvalidFields: a parameter is wrong.
        InvalidTensor: a tensor does not fit the model.
    """
    outputs = [{"name": o.name, "parameters": read_parameters(o.parameters)} for o in request.outputs]
    given = {"id": request.id or None, "parameters": read_parameters(request.parameters), "outputs": outputs or None}
    call = read_members(given, view)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    for index, tensor in enumerate(request.inputs):
        known = find_input(tensor.name, call, view)
        refuse_shared_memory(read_parameters(tensor.parameters), f"inputs.{index}")
        shape = list(tensor.shape)
        check_shape(known, tensor.datatype, shape, limits.max_rows)
        if not raw:
            call.feeds[known.name] = _from_contents(known, tensor.contents, shape)
        elif tensor.HasField("contents"):
            raise InvalidRequest(f"input {known.name!r} has contents beside raw_input_contents; leave one of them out")
        else:
            call.feeds[known.name] = from_bytes(known, raw[index], 0, len(raw[index]), shape)
    count_rows(call, view)
    return call


def encode(view: ModelView, call: InferCall, arrays: Mapping[str, NDArray[Any]]) -> pb.ModelInferResponse:
    """Write the answer of a call; every output has raw contents."""
    response = pb.ModelInferResponse(model_name=view.name, model_version=view.version, id=call.id or "")
    for wish in call.outputs:
        known, array = view.outputs[wish.name], arrays[wish.name]
        if wish.classes:
            best = best_classes(array, wish.classes, known.labels)
            response.outputs.add(name=wish.name, datatype="BYTES", shape=(len(best), len(best[0])))
            response.raw_output_contents.append(bytes_elements([text for row in best for text in row]))
        else:
            response.outputs.add(name=wish.name, datatype=known.datatype, shape=array.shape)
            response.raw_output_contents.append(np.ascontiguousarray(array, known.dtype).tobytes())
    return response


def _from_contents(known: TensorView, contents: pb.InferTensorContents, shape: list[int]) -> NDArray[Any]:
    field = _CONTENTS.get(known.datatype)
    if field is None:
        raise InvalidTensor(f"{known.name!r}: {known.datatype} has no typed contents; send raw_input_contents")
    others = [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != field]
    if others:
        raise InvalidTensor(f"{known.name!r}: {known.datatype} belongs into {field}, not into {others[0]}")
    elements, size = getattr(contents, field), math.prod(shape)
    if len(elements) != size:
        raise InvalidTensor(f"{known.name!r} has {len(elements)} numbers, shape {shape} needs {size}")
    return np.array(elements, known.dtype).reshape(shape)
