"""Image classification: a picture in, classes and probabilities out."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, Prediction, json_response, top_predictions
from service.api.body import IMAGE, JSON, MULTIPART, media_type, parse_base64, parse_json, uploaded_image
from service.api.state import Timing, gone, in_worker, state_of
from service.protocol.tensors import from_json
from service.repository import Loaded

if TYPE_CHECKING:
    from service.image import Pixels

Top = Annotated[int, Query(ge=1, le=1000, description="how many classes to answer, at most all")]


class ClassifyRequest(BaseModel):
    """An image inside JSON: exactly one of the two fields."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(None, description="PNG, JPEG, GIF, WebP or BMP in base64")
    pixels: list[list[Any]] | None = Field(
        None, description="grey values 0 to 255 in the model's own raster, row by row"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "ClassifyRequest":
        if (self.image is None) == (self.pixels is None):
            raise PydanticCustomError("exactly_one", "give exactly one of image and pixels")
        return self


class ClassifyResponse(Answer):
    """The most probable classes; `inverted` tells that the image had the other background and was inverted."""

    model: str
    version: str
    predictions: list[Prediction]
    inverted: bool
    warnings: list[str]
    timing_ms: dict[str, float]


async def classify(request: Request, name: str, version: str | None = None, top: Top = 5) -> Response:
    """Classify an image: an upload (form field `image`), a raw image body, or JSON.

    The image is turned upright, fitted into the model's raster whole and padded. Transparent parts show the
    background that the model was trained on. If the image's border is of the other brightness it is inverted, and the
    answer says so.
    """
    timing = request.state.timing = Timing()
    state = state_of(request)
    model = state.repository.get(name, version)
    kind = media_type(request, MULTIPART, IMAGE, JSON)
    content_type = request.headers.get("content-type", "")
    body = await request.body()
    timing.mark("receive")

    def read() -> "Pixels":
        timing.mark("queue")
        image = uploaded_image(body, content_type) if kind == MULTIPART else body
        return _pixels(model, image, is_json=kind == JSON, max_pixels=state.settings.max_image_pixels)

    task = model.manifest.classification
    with model.in_use():
        pixels = await in_worker(request, read)
        timing.mark("decode")
        feeds = {task.image.tensor: pixels.tensor}
        arrays = await model.batcher.run(feeds, [task.probabilities], rows=1, gone=gone(request))
    timing.mark("model")
    return json_response(
        {
            "model": model.name,
            "version": model.version,
            "predictions": top_predictions(arrays[task.probabilities][0], task.labels, top),
            "inverted": pixels.inverted,
            "warnings": inversion_warnings(pixels),
            "timing_ms": timing.ms,
        }
    )


def inversion_warnings(pixels: "Pixels") -> list[str]:
    """Say that the image was inverted, if it was."""
    note = "the border of the image has the other brightness than the model's background: the image was inverted"
    return [note] if pixels.inverted else []


def _pixels(model: Loaded, body: bytes, *, is_json: bool, max_pixels: int) -> "Pixels":
    from service.image import pixels_from_image, pixels_from_rows  # loaded when the model was opened

    spec = model.manifest.classification.image
    if not is_json:
        return pixels_from_image(body, spec, max_pixels)
    asked = parse_json(body, ClassifyRequest)
    if asked.image is not None:
        return pixels_from_image(parse_base64(asked.image), spec, max_pixels)
    return pixels_from_rows(from_json("pixels", asked.pixels, (spec.height, spec.width), "FP32"), spec)
