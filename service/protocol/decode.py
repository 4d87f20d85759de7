"""Request bodies to calls: plain JSON, JSON with binary tensors behind it, or one raw tensor."""

import math
from typing import Any

import orjson

from service.errors import InvalidRequest, InvalidTensor
from service.protocol import fast_json
from service.protocol.call import Buffer, InferCall, Limits
from service.protocol.fields import check_integer, check_list, check_object, check_parameters, check_text, refuse
from service.protocol.members import OPTIONAL, REQUIRED, count_rows, find_input, read_members
from service.protocol.parameters import NONE, refuse_shared_memory
from service.protocol.tensors import check_shape, from_bytes, from_json
from service.protocol.view import ModelView

_TENSOR_REQUIRED = frozenset({"name", "shape", "datatype"})
_TENSOR_OPTIONAL = frozenset({"parameters", "data"})
_MOST_AXES = 16


def read_header_length(value: str | bytes | None) -> int | None:
    """Return the value of the header `Inference-Header-Content-Length`, None where there is none.

    Raises:
        InvalidRequest: it is not a number of bytes.
    """
    if value is None:
        return None
    # int() would take signs, blanks, underscores, and digits of other scripts.
    if not (0 < len(value) <= 12 and value.isascii() and value.isdigit()):
        raise InvalidRequest("Inference-Header-Content-Length must be the length of the JSON in bytes, or 0")
    return int(value)


def decode(body: Buffer, header_length: int | None, view: ModelView, limits: Limits) -> InferCall:
    """Turn a body into a call that fits the model.

    Args:
        body: the whole body, not longer than the service reads.
        header_length: length of the JSON in front of binary tensors; None if all is JSON; 0 if the body is nothing but
            the data of the model's only input, whose outputs are then answered as binary data.
        view: the model.
        limits: what one request may ask.

    Raises:
        InvalidRequest: it is no JSON, or the lengths contradict each other.
        InvalidFields: a field is missing, unknown or of a wrong type.
        InvalidTensor: a tensor does not fit the model.
    """
    if header_length is None:
        return fast_json.decode(body, view, limits) or _decode_object(_loads(body), b"", 0, view, limits)
    if header_length == 0:
        return _decode_raw(body, view, limits)
    if header_length > len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {header_length}, but the body has only {len(body)} bytes"
        )
    call = view.plans.decode(body, header_length, limits)
    if call is None:
        call = _decode_object(_loads(memoryview(body)[:header_length]), body, header_length, view, limits)
        view.plans.learn(body, header_length, limits, call)
    return call


def _decode_object(request: Any, body: Buffer, offset: int, view: ModelView, limits: Limits) -> InferCall:
    """Turn a request's JSON value into a call; binary tensors lie in `body` from `offset` on, in the inputs' order."""
    given = check_object(request, "body", REQUIRED, OPTIONAL)
    call = read_members(given, view)
    for index, tensor in enumerate(check_list(given["inputs"], "inputs")):
        offset = _decode_input(tensor, f"inputs.{index}", body, offset, view, limits, call)
    if offset != len(body):
        raise InvalidRequest(f"the body has {len(body) - offset} bytes behind the last tensor")
    count_rows(call, view)
    return call


def _decode_input(
    tensor: Any, field: str, body: Buffer, offset: int, view: ModelView, limits: Limits, call: InferCall
) -> int:
    """Add one input to the call and return where the next binary tensor begins."""
    given = check_object(tensor, field, _TENSOR_REQUIRED, _TENSOR_OPTIONAL)
    name = check_text(given["name"], f"{field}.name")
    datatype = check_text(given["datatype"], f"{field}.datatype")
    shape = _check_shape_field(given["shape"], f"{field}.shape")
    parameters = check_parameters(given["parameters"], f"{field}.parameters") if "parameters" in given else NONE
    known = find_input(name, call, view)
    refuse_shared_memory(parameters, field)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in given:
            refuse(f"{field}.data", "field required")
        data = check_list(given["data"], f"{field}.data")
        check_shape(known, datatype, shape, limits.max_rows)
        call.feeds[name] = from_json(name, data, shape, known.datatype)
        return offset
    if "data" in given:
        refuse(f"{field}.data", "the tensor comes as binary data; leave one of the two out")
    size = check_integer(size, f"{field}.parameters.binary_data_size", 0, 2**63)
    if not offset:
        raise InvalidRequest("binary tensors need the header Inference-Header-Content-Length: the length of the JSON")
    check_shape(known, datatype, shape, limits.max_rows)
    call.feeds[name] = from_bytes(known, body, offset, size, shape)
    return offset + size


def _check_shape_field(value: Any, field: str) -> list[int]:
    shape = check_list(value, field, at_least=1)
    if len(shape) > _MOST_AXES:
        refuse(field, f"at most {_MOST_AXES} axes are allowed")
    for axis, length in enumerate(shape):
        if type(length) is not int:  # true is no length
            refuse(f"{field}.{axis}", "an integer is needed")
    return shape


def _decode_raw(body: Buffer, view: ModelView, limits: Limits) -> InferCall:
    if len(view.inputs) != 1:
        raise InvalidRequest(f"without JSON a model needs one input, this one has {len(view.inputs)}")
    (tensor,) = view.inputs.values()
    if tensor.shape.count(-1) > 1:
        raise InvalidRequest(f"the bytes do not tell the shape of {tensor.name!r}, {list(tensor.shape)}: send JSON too")
    fixed = math.prod(axis for axis in tensor.shape if axis != -1) * tensor.dtype.itemsize
    free, rest = divmod(len(body), fixed)
    if rest or not free or (-1 not in tensor.shape and free != 1):
        raise InvalidTensor(f"{tensor.name!r} needs a multiple of {fixed} bytes, the body has {len(body)}")
    shape = [free if axis == -1 else axis for axis in tensor.shape]
    check_shape(tensor, tensor.datatype, shape, limits.max_rows)
    call = InferCall({tensor.name: from_bytes(tensor, body, 0, len(body), shape)}, 1, view.default_outputs_binary)
    count_rows(call, view)
    return call


def _loads(body: Buffer) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:  # its message has a position, and nothing of the body
        raise InvalidRequest(f"the body is not JSON (which has no NaN or Infinity): {error}") from error
