"""Pieces that several answers share."""

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response


class Answer(BaseModel):
    """Base of the documented answers; the tests hold real answers to them."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Prediction(Answer):
    """One class and its probability."""

    label: str
    index: int
    probability: float | None = Field(description="null if the model gave no finite number")


def top_predictions(probabilities: NDArray[Any], labels: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """Return the `count` most probable classes, the most probable first; equal ones in the order of their index."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [{"label": labels[i], "index": int(i), "probability": probabilities[i]} for i in order]


def encode(value: object) -> bytes:
    """Write JSON: arrays as nested lists, float32 with as many digits as it takes, what is not finite as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(value: object, status: int = 200) -> Response:
    """Answer a value as JSON."""
    return Response(encode(value), status, media_type="application/json")
