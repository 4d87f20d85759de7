"""Elements of tensors in the bytes of a body."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.protocol.call import Buffer


def read_elements(buffer: Buffer, dtype: np.dtype[Any], count: int, offset: int) -> NDArray[Any]:
    """Return `count` elements at `offset`, aligned; they share the buffer if they lie so in it."""
    array: NDArray[Any] = np.frombuffer(buffer, dtype, count, offset)
    if array.flags.aligned:
        return array
    # Bytes are moved faster than numbers that straddle words.
    return np.frombuffer(buffer[offset : offset + count * dtype.itemsize], dtype)
