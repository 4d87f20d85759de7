"""Numbers from JSON to arrays and back, with every way in which they can be wrong."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import TensorSpec
from service.errors import InvalidTensor, RequestTooLarge

DTYPES: dict[str, type[np.generic]] = {"FP32": np.float32, "INT64": np.int64}


def check_shape(spec: TensorSpec, datatype: str, shape: Sequence[int], max_rows: int) -> None:
    """Compare what a request declares with what the graph takes; looks at no data.

    Raises:
        InvalidTensor: another datatype, another number of axes, or an axis of another length.
        RequestTooLarge: more than `max_rows` rows.
    """
    wanted = list(spec.shape)
    if datatype != spec.datatype:
        raise InvalidTensor(f"input {spec.name!r} is {spec.datatype}, not {datatype[:16]!r}")
    fits = len(shape) == len(wanted) and all(
        axis >= 1 and want in (-1, axis) for axis, want in zip(shape, wanted, strict=True)
    )
    if not fits:
        shown = f"{list(shape[:8])}" + ("..." if len(shape) > 8 else "")
        raise InvalidTensor(f"input {spec.name!r} has shape {wanted}, -1 is any length from 1; got {shown}")
    if shape[0] > max_rows:
        raise RequestTooLarge(
            f"input {spec.name!r} has {shape[0]} rows, {max_rows} are allowed", rows=shape[0], limit_rows=max_rows
        )


def to_array(name: str, data: Any, shape: Sequence[int], datatype: str) -> NDArray[Any]:
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


def count_nonfinite(array: NDArray[Any]) -> int:
    """Count what JSON can only give as null."""
    return int(array.size - np.isfinite(array).sum())


def _flatten(name: str, data: Any, shape: Sequence[int]) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidTensor(f"{name!r}: data must be a list of numbers, flat or nested like the shape")
    if not any(isinstance(element, list) for element in data):
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
