"""The usual JSON request, decoded without a Python object per number.

Whatever is unusual, wrong or only rare, is left to `decode`, which alone decides what is refused and how that is said.
So this file can only be faster, never different.
"""

import math
import threading
from typing import Any

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.errors import ServiceError
from service.protocol.call import Buffer, InferCall, Limits
from service.protocol.members import OPTIONAL, count_rows, read_members
from service.protocol.view import ModelView, TensorView

_TENSOR_MEMBERS = 4
_LEAST_BYTES = 256
"""Below this size a Python object per number costs less than the second look."""


class _Parsers(threading.local):
    """A parser keeps its buffers from one document to the next, and belongs to one thread."""

    def __init__(self) -> None:
        self.parser = simdjson.Parser()


_parsers = _Parsers()


def decode(body: Buffer, view: ModelView, limits: Limits) -> InferCall | None:
    """Decode a body whose inputs all have flat data and no parameters; None if the body is another, or is wrong."""
    if len(body) < _LEAST_BYTES or body[0] != 0x7B:  # "{"; a byte order mark is left to the slow way as well
        return None
    try:
        return _decode(bytes(body), view, limits)
    except (ServiceError, ValueError, TypeError, KeyError, RuntimeError):  # the parser's, beside our own
        return None


def _decode(body: bytes, view: ModelView, limits: Limits) -> InferCall | None:
    request: Any = _parsers.parser.parse(body)
    tensors = request["inputs"]
    brackets = 1 + 2 * len(tensors)  # of the list, and of each shape and data
    if len(request) == 1:  # the number of members also says that none comes twice
        call = InferCall({}, 1, view.default_outputs)
    else:
        members = {name: _plain(request[name]) for name in OPTIONAL if name in request}
        if len(request) != 1 + len(members):
            return None
        brackets += "outputs" in members
        call = read_members(members, view)
    if not _has_brackets(body, brackets):  # data is nested, or a name is strange
        return None
    for tensor in tensors:
        known = view.inputs.get(tensor["name"])
        if known is None or known.name in call.feeds or len(tensor) != _TENSOR_MEMBERS:
            return None
        shape = tensor["shape"].as_list()
        if tensor["datatype"] != known.datatype or not _fits(known, shape, limits.max_rows):
            return None
        array = _numbers(tensor["data"], known, shape)
        if array is None:
            return None
        call.feeds[known.name] = array
    count_rows(call, view)
    return call


def _has_brackets(body: bytes, count: int) -> bool:
    """Say whether `[` is there so many times; a search for the next one is far faster than a count of all."""
    at = -1
    for _ in range(count):
        at = body.find(b"[", at + 1)
        if at < 0:
            return False
    return body.find(b"[", at + 1) < 0


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _fits(known: TensorView, shape: list[Any], max_rows: int) -> bool:
    if len(shape) != len(known.shape) or not 1 <= shape[0] <= max_rows:
        return False
    for axis, want in zip(shape, known.shape, strict=True):
        if type(axis) is not int or (axis != want and (want != -1 or axis < 1)):
            return False
    return True


def _numbers(data: Any, known: TensorView, shape: list[int]) -> NDArray[Any] | None:
    if known.datatype == "INT64":
        array: NDArray[Any] = np.frombuffer(data.as_buffer(of_type="i"), np.int64)
    else:
        doubles = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
        with np.errstate(over="ignore"):
            array = doubles.astype(known.dtype)
        if not np.isfinite(array).all():
            return None
    return array.reshape(shape) if array.size == math.prod(shape) else None
