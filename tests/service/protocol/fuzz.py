"""Fuzzing of the request parsers, guided by coverage: `make fuzz`, or `python -m tests.service.protocol.fuzz`.

Arguments are those of libFuzzer, for example `-max_total_time=60` or the path of a crash to be run again.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from service.errors import ServiceError
from service.protocol.call import InferCall
from service.protocol.decode import decode
from service.protocol.encode import encode
from service.protocol.view import ModelView
from tests.service.protocol.requests import (
    FIXED,
    LIMITS,
    ONE,
    TOKENS,
    TWO,
    binary_tensor,
    body_of,
    read_answer,
    tensor,
    view,
)

WIDE = view({"x": ("FP32", (-1, 60))})
MODELS = (ONE, TWO, FIXED, TOKENS, WIDE)


def one_input(data: bytes) -> None:
    """Decode any bytes as a request: it is refused in words, or its arrays are what the model takes.

    The first byte chooses the model, the next two the length of the JSON: 65535 is none.
    """
    if len(data) < 3:
        return
    model, length, body = MODELS[data[0] % len(MODELS)], int.from_bytes(data[1:3], "little"), data[3:]
    try:
        call = decode(body, None if length == 0xFFFF else length, model, LIMITS)
    except ServiceError as error:
        refusal = str(error)
    else:
        refusal = "none"
        check(call, model)
    assert 0 < len(refusal) < 4000  # the names in it are bounded


def check(call: InferCall, model: ModelView) -> None:
    """Hold a call to everything that the engine relies on, and its answer to what clients rely on."""
    assert call.feeds.keys() == model.inputs.keys()
    for name, array in call.feeds.items():
        known = model.inputs[name]
        assert array.dtype == known.dtype
        assert len(array.shape) == len(known.shape)
        assert all(want in (-1, axis) and axis >= 1 for axis, want in zip(array.shape, known.shape, strict=True))
        assert array.flags.aligned
        assert len(array) == call.rows or not model.batchable
        assert array.shape[0] <= LIMITS.max_rows
    assert call.priority >= 0
    assert call.timeout_seconds is None or 0 < call.timeout_seconds <= 86_400
    shapes = {
        name: [call.rows if axis == -1 else axis for axis in known.shape] for name, known in model.outputs.items()
    }
    arrays = {name: np.ones(shapes[name], model.outputs[name].dtype) for name in call.names}
    encoded = encode(model, call, arrays, LIMITS)
    answer, _ = read_answer(encoded.body, encoded.header_length)
    assert answer.get("id") == call.id


def seeds() -> list[bytes]:
    """Return good requests to start from: JSON, binary, both in one, and a tensor alone."""
    x, n = np.ones((2, 4), np.float32), np.arange(2)
    wishes = {"id": "a", "outputs": [{"name": "scores", "parameters": {"classification": 2, "binary_data": True}}]}
    mixed = body_of({"inputs": [tensor("n", n, "INT64"), binary_tensor("x", x, "FP32")]}, x)
    return [
        _seed(0, json.dumps({"inputs": [tensor("x", x, "FP32")], **wishes}).encode(), 0xFFFF),
        _seed(0, *body_of({"inputs": [binary_tensor("x", x, "FP32")], "parameters": {"priority": 1, "timeout": 9}}, x)),
        _seed(1, *mixed),
        _seed(2, np.ones((2, 3), np.float16).tobytes(), 0),
        _seed(3, json.dumps({"inputs": [tensor("tokens", n[None], "INT64")]}).encode(), 0xFFFF),
        _seed(4, json.dumps({"inputs": [tensor("x", np.ones((1, 60), np.float32), "FP32")]}).encode(), 0xFFFF),
    ]


def _seed(model: int, body: bytes, length: int) -> bytes:
    return bytes([model]) + length.to_bytes(2, "little") + body


def main() -> None:
    """Fuzz from the seeds until libFuzzer's arguments say stop."""
    import atheris

    for module in ("decode", "fast_json", "fields", "members", "parameters", "plans", "tensors"):
        name = f"service.protocol.{module}"
        for value in vars(sys.modules[name]).values():
            if callable(value) and getattr(value, "__module__", None) == name and hasattr(value, "__code__"):
                atheris.instrument_func(value)
    with TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds()):
            (Path(corpus) / str(index)).write_bytes(seed)
        own = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        atheris.Setup([*sys.argv, *([] if own else [corpus])], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
