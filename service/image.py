"""From image bytes to the pixel tensor that a manifest asks for."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.bundle import ImageInput
from service.errors import InvalidImage, InvalidTensor, RequestTooLarge

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")

# Pillow's own limit only warns, and at another size; `decode` checks the caller's limit before it decodes.
Image.MAX_IMAGE_PIXELS = None
# Registers the decoders now: the first requests would do it at the same time, from several threads.
Image.init()

_BRIGHT = 127.5


@dataclass(frozen=True)
class Pixels:
    """A tensor (1, channels, height, width), and whether the image was inverted to get it."""

    tensor: NDArray[np.float32]
    inverted: bool


def pixels_from_image(data: bytes, spec: ImageInput, max_pixels: int) -> Pixels:
    """Decode an image and fit it into the model's raster: whole, centred, padded with the background colour.

    Transparent parts show the background. The border tells the background of the image itself: where the model wants
    a dark one and the border is bright (or the other way round), the image is inverted.

    Raises:
        InvalidImage: the bytes are not a readable image of one of `FORMATS`.
        RequestTooLarge: width x height exceeds `max_pixels`; nothing was decoded.
    """
    image = decode(data, max_pixels, _paper(spec))
    grey = np.asarray(image.convert("L"))
    inverted = _has_other_background(grey, spec)
    fitted = _fit(image.convert("L" if spec.channels == 1 else "RGB"), spec, inverted=inverted)
    return Pixels(_normalise(np.asarray(fitted, np.float32), spec), inverted)


def pixels_from_rows(grey: NDArray[np.float32], spec: ImageInput) -> Pixels:
    """Take grey values 0 to 255 in the model's own raster (height, width); the border is judged as for images.

    Raises:
        InvalidTensor: a value lies outside 0 to 255.
    """
    if not ((grey >= 0) & (grey <= 255)).all():
        raise InvalidTensor("pixels must lie between 0 and 255")
    inverted = _has_other_background(grey, spec)
    if inverted:
        grey = 255 - grey
    planes = grey if spec.channels == 1 else np.repeat(grey[..., None], spec.channels, axis=-1)
    return Pixels(_normalise(planes, spec), inverted)


def decode(data: bytes, max_pixels: int, paper: int) -> Image.Image:
    """Return the first frame, upright, 8 bits per channel, without transparency: RGB or L.

    Raises:
        InvalidImage: see `pixels_from_image`.
        RequestTooLarge: see `pixels_from_image`.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # decoders raise whatever a hostile header leads them to
        raise InvalidImage(f"the image is not a readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise RequestTooLarge(
            f"the image has {width} x {height} pixels, {max_pixels} are allowed", limit_pixels=max_pixels
        )
    try:
        return _flatten(ImageOps.exif_transpose(image), paper)
    except Exception as error:
        raise InvalidImage(f"the {image.format} image is damaged and cannot be decoded") from error


def _flatten(image: Image.Image, paper: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would cut off everything above 255
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (paper, paper, paper, 255)), layer).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _paper(spec: ImageInput) -> int:
    """Return the grey value of the background: bright is white, dark and undeclared are black."""
    return 255 if spec.background == "bright" else 0


def _has_other_background(grey: NDArray[Any], spec: ImageInput) -> bool:
    if spec.background == "any":
        return False
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    # The median: an object that touches one edge does not decide.
    return bool(np.median(border) > _BRIGHT) != (spec.background == "bright")


def _fit(image: Image.Image, spec: ImageInput, *, inverted: bool) -> Image.Image:
    if inverted:
        image = ImageOps.invert(image)
    scale = min(spec.width / image.width, spec.height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if size == (spec.width, spec.height):
        return image
    paper = _paper(spec)
    canvas = Image.new(image.mode, (spec.width, spec.height), paper if image.mode == "L" else (paper,) * 3)
    canvas.paste(image, ((spec.width - size[0]) // 2, (spec.height - size[1]) // 2))
    return canvas


def _normalise(values: NDArray[np.float32], spec: ImageInput) -> NDArray[np.float32]:
    """Turn (height, width[, channels]) in 0 to 255 into (1, channels, height, width) as the manifest defines it."""
    planes = values[..., None] if values.ndim == 2 else values
    scaled = (planes / np.float32(255) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)
