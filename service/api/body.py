"""Reading request bodies: media types, compression, JSON, base64, uploads."""

import base64
import binascii
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import Request

from service.api.problems import field_errors, sentence
from service.errors import InvalidFields, InvalidImage, InvalidRequest, UnsupportedMedia
from service.protocol.compression import WINDOW_BITS

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"
IMAGE = "image/*"
BINARY = "application/octet-stream"

_ONE_FILE = "the form must have one part, a file named 'image': curl -F image=@picture.png"


def media_type(request: Request, *accepted: str, compressed: bool = False) -> str:
    """Return which of `accepted` the body is; a body without a type counts as JSON where JSON is accepted.

    Raises:
        UnsupportedMedia: it is none of them, or it is compressed where it may not be, or in an unknown way.
    """
    encodings = ("identity", *(WINDOW_BITS if compressed else ()))
    if request.headers.get("content-encoding", "identity").lower() not in encodings:
        raise UnsupportedMedia(
            f"send the body with Content-Encoding {' or '.join(encodings)}, or without", accepted=list(accepted)
        )
    declared = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    kind = JSON if declared.endswith("+json") else IMAGE if declared.startswith("image/") else declared
    if kind not in accepted:
        raise UnsupportedMedia(
            f"Content-Type {declared[:64]!r} is not read here; send {' or '.join(accepted)}", accepted=list(accepted)
        )
    return kind


def load_json(body: bytes) -> Any:
    """Parse strict JSON.

    Raises:
        InvalidRequest: it is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON (which has no NaN or Infinity): {error}") from error


def parse_json(body: bytes, model: type[M]) -> M:
    """Parse strict JSON (no NaN, no Infinity) and check its fields.

    Raises:
        InvalidRequest: it is not JSON.
        InvalidFields: a field is missing, unknown or of a wrong type.
    """
    value = load_json(body)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = field_errors(list(error.errors(include_url=False, include_context=False, include_input=False)))
        raise InvalidFields(sentence(details), errors=details) from error


def parse_base64(text: str) -> bytes:
    """Decode an image that came inside JSON; a `data:` URL is taken as well.

    Raises:
        InvalidImage: it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"the image is not base64: {error}") from error


def uploaded_image(body: bytes, content_type: str) -> bytes:
    """Return the file of the form field `image`.

    Raises:
        InvalidRequest: it is no form, has no such file, or something else beside it.
    """
    found: list[File] = []

    def take(part: File | Field) -> None:
        if found or not isinstance(part, File) or part.field_name != b"image":
            raise InvalidRequest(_ONE_FILE)
        found.append(part)

    _, options = parse_options_header(content_type)
    try:
        # The body is in memory already; a file beside it on the disk would be no gain.
        in_memory = {"MAX_MEMORY_FILE_SIZE": len(body)}
        parser = FormParser(MULTIPART, take, take, boundary=options.get(b"boundary"), config=in_memory)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("the body is not a form of the boundary that Content-Type declares") from error
    if not found:
        raise InvalidRequest(_ONE_FILE)
    found[0].file_object.seek(0)
    return found[0].file_object.read()
