"""The classification extension: the best classes of an output, as strings `VALUE:INDEX:LABEL`."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_classes(values: NDArray[Any], count: int, labels: Sequence[str]) -> list[list[str]]:
    """Return the `count` highest values of each row, or all if there are fewer; equal ones in the order of their index.

    `values` is (rows, classes). Each value is written with as many digits as its type takes; what is no number comes
    last.
    """
    # ~x is -x - 1, which also the least integer has.
    order = np.argsort(~values if values.dtype.kind == "i" else -values, axis=1, kind="stable")[:, :count]
    return [[_text(row[index], int(index), labels) for index in best] for row, best in zip(values, order, strict=True)]


def bytes_elements(texts: Sequence[str]) -> bytes:
    """Return a BYTES tensor as binary data: each element's length in four bytes, little-endian, then its UTF-8."""
    encoded = [text.encode() for text in texts]
    return b"".join(part for element in encoded for part in (struct.pack("<I", len(element)), element))


def _text(value: Any, index: int, labels: Sequence[str]) -> str:
    text = f"{value!s}:{index}"
    return f"{text}:{labels[index]}" if labels else text
