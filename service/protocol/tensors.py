"""Tensors of a request to arrays, with every way in which they can be wrong; nothing is allocated before its check."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest, InvalidTensor
from service.manifest.tensors import Datatype, TensorSpec
from service.protocol.call import Buffer
from service.protocol.elements import read_elements
from service.protocol.view import DTYPES, TensorView


def check_shape(tensor: TensorView | TensorSpec, datatype: str, shape: Sequence[int], max_rows: int) -> None:
    """Compare what a request declares with what the graph takes; looks at no data.

    Raises:
        InvalidTensor: another datatype or number of axes, an axis of another length, or more than `max_rows` rows.
    """
    wanted = tensor.shape
    if datatype != tensor.datatype:
        raise InvalidTensor(f"input {tensor.name!r} is {tensor.datatype}, not {datatype[:16]!r}")
    fits = len(shape) == len(wanted)
    if fits:
        for axis, want in zip(shape, wanted, strict=True):
            if axis < 1 or (axis != want and want != -1):
                fits = False
    if not fits:
        shown = f"{list(shape[:8])}" + ("..." if len(shape) > 8 else "")
        raise InvalidTensor(f"input {tensor.name!r} has shape {list(wanted)}, -1 is any length from 1; got {shown}")
    if shape[0] > max_rows:
        raise InvalidTensor(
            f"input {tensor.name!r} has {shape[0]} rows, {max_rows} are allowed", rows=shape[0], limit_rows=max_rows
        )


def from_json(name: str, data: Any, shape: Sequence[int], datatype: Datatype) -> NDArray[Any]:
    """Turn nested or flat (row-major) numbers into an array of a shape that `check_shape` has let pass.

    Raises:
        InvalidTensor: the data does not have that many numbers, is unevenly nested, or has something else inside.
    """
    flat = _flatten(name, data, shape)
    size = math.prod(shape)  # exact: Python's integers do not overflow
    if len(flat) != size:
        raise InvalidTensor(f"{name!r} has {len(flat)} numbers, shape {list(shape)} needs {size}")
    numbers = (int,) if datatype == "INT64" else (int, float)
    # bool is a kind of int to Python, not to the caller.
    if not {type(number) for number in flat} <= set(numbers):
        index = next(i for i, number in enumerate(flat) if type(number) not in numbers)
        wanted = "an integer" if datatype == "INT64" else "a number"
        raise InvalidTensor(f"{name!r}: element {index} is {_json_type(flat[index])}, not {wanted}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, DTYPES[datatype])
    except OverflowError as error:
        raise InvalidTensor(f"{name!r} has a number outside the range of {datatype}") from error
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidTensor(f"{name!r}: element {index} is not finite as {datatype}")
    return array.reshape(tuple(shape))


def from_bytes(tensor: TensorView, buffer: Buffer, offset: int, size: int, shape: Sequence[int]) -> NDArray[Any]:
    """Read `size` bytes of little-endian, row-major elements at `offset`; the array shares the buffer where it can.

    Raises:
        InvalidTensor: the shape needs another number of bytes.
        InvalidRequest: the buffer ends before.
    """
    count = math.prod(shape)
    if size != count * tensor.dtype.itemsize:
        raise InvalidTensor(
            f"{tensor.name!r} has {size} bytes, {tensor.datatype} of shape {list(shape)} needs "
            f"{count * tensor.dtype.itemsize}"
        )
    if offset + size > len(buffer):
        left = max(0, len(buffer) - offset)
        raise InvalidRequest(f"{tensor.name!r} should have {size} bytes behind the JSON, {left} are left of the body")
    return read_elements(buffer, tensor.dtype, count, offset).reshape(tuple(shape))


def count_nonfinite(array: NDArray[Any]) -> int:
    """Count what JSON can only give as null."""
    return int(array.size - np.isfinite(array).sum())


def _flatten(name: str, data: Any, shape: Sequence[int]) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidTensor(f"{name!r}: data must be a list of numbers, flat or nested like the shape")
    if list not in {type(element) for element in data}:
        return data
    level: list[Any] = [data]
    for axis, length in enumerate(shape):
        for part in level:
            if not isinstance(part, list) or len(part) != length:
                found = f"{len(part)} elements" if isinstance(part, list) else _json_type(part)
                raise InvalidTensor(f"{name!r}: axis {axis} of the data needs {length} elements, one part has {found}")
        level = list(chain.from_iterable(level))
    return level


def _json_type(value: Any) -> str:
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", float: "a fraction"}
    return names.get(type(value), "null")
