"""What the load sends: the same random images in the formats that servers take.

There are several different ones, in turn, so that a cache of answers gains nothing.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.models import INPUT, SIDE

COUNT = 64
_JSON = ("Content-Type: application/json",)
_PIXELS = SIDE * SIDE

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Format:
    """How a row of numbers becomes a body, and the headers that go with it; `tensor` is the shape that is declared."""

    encode: Callable[[Rows, list[int]], bytes]
    headers: Callable[[list[int]], tuple[str, ...]] = lambda tensor: _JSON


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tensor(shape: list[int], **rest: object) -> dict[str, object]:
    return {"inputs": [{"name": INPUT, "shape": shape, "datatype": "FP32", **rest}]}


def _binary_header(shape: list[int]) -> bytes:
    described = _tensor(shape, parameters={"binary_data_size": _PIXELS * 4})
    return _dumps({**described, "parameters": {"binary_data_output": True}})


def _binary_headers(shape: list[int]) -> tuple[str, ...]:
    length = len(_binary_header(shape))
    return ("Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {length}")


FORMATS = {
    # What Python clients send: all digits of the numbers as double precision, about 19 characters each.
    "plain": Format(lambda row, shape: _dumps({"input": row.tolist()})),
    "json": Format(lambda row, shape: _dumps(_tensor(shape, data=row.tolist()))),
    "binary": Format(lambda row, shape: _binary_header(shape) + row.tobytes(), _binary_headers),
    "rows": Format(lambda row, shape: _dumps({"input": [row.tolist()]})),
}


def bodies(kind: str, shape: list[int]) -> list[bytes]:
    """Return the bodies of a format."""
    rows = np.random.default_rng(123).standard_normal((COUNT, _PIXELS), dtype=np.float32)
    return [FORMATS[kind].encode(row, shape) for row in rows]


def write(folder: Path, kind: str, shape: list[int]) -> Path:
    """Write bodies for `load.lua`: each behind its length, 4 bytes little-endian; `.headers` beside, one a line."""
    path = folder / f"{kind}-{'x'.join(map(str, shape))}.bodies"
    path.write_bytes(b"".join(struct.pack("<I", len(body)) + body for body in bodies(kind, shape)))
    headers = FORMATS[kind].headers(shape)
    path.with_suffix(".headers").write_text("\n".join(headers) + "\n", encoding="ascii")
    return path
