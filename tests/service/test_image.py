import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from service.bundle import ImageInput
from service.errors import InvalidImage, InvalidTensor, RequestTooLarge
from service.image import pixels_from_image, pixels_from_rows
from tests.service.conftest import encode, png

LIMIT = 1_000_000


def spec(
    height: int = 8, width: int = 12, channels: int = 1, background: str = "dark", mean: float = 0.0, std: float = 1.0
) -> ImageInput:
    return ImageInput.model_validate(
        {
            "tensor": "pixels",
            "height": height,
            "width": width,
            "channels": channels,
            "mean": [mean] * channels,
            "std": [std] * channels,
            "background": background,
        }
    )


def scene(height: int = 8, width: int = 12) -> np.ndarray:
    """Return a grey image with a dark border and no symmetry."""
    image = np.zeros((height, width), np.uint8)
    image[1 : height - 1, 1 : width - 1] = np.random.default_rng(0).integers(
        0, 256, (height - 2, width - 2), dtype=np.uint8
    )
    return image


def test_an_image_of_the_right_size_comes_through_exactly() -> None:
    image = scene()
    pixels = pixels_from_image(png(image), spec(mean=0.25, std=0.5), LIMIT)
    assert pixels.tensor.shape == (1, 1, 8, 12)
    assert pixels.tensor.dtype == np.float32
    assert pixels.tensor.flags.c_contiguous
    assert pixels.tensor[0, 0] == pytest.approx((image / 255 - 0.25) / 0.5, abs=1e-6)
    assert not pixels.inverted


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_every_format_is_read(format: str) -> None:
    image = np.zeros((16, 24), np.uint8)
    image[4:12, 6:18] = 200
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "JPEG" else {}
    tensor = pixels_from_image(encode(Image.fromarray(image), format, **options), spec(16, 24), LIMIT).tensor[0, 0]
    assert tensor * 255 == pytest.approx(image, abs=6 if format == "JPEG" else 0.01)


def test_channels_stay_in_order() -> None:
    image = np.zeros((8, 12, 3), np.uint8)
    image[2:6, 3:9] = (250, 120, 10)
    colour = pixels_from_image(png(image), spec(channels=3), LIMIT).tensor
    assert colour.shape == (1, 3, 8, 12)
    assert colour[0, :, 4, 5] * 255 == pytest.approx([250, 120, 10], abs=1e-3)
    grey = pixels_from_image(png(image), spec(), LIMIT).tensor
    assert grey[0, 0, 4, 5] * 255 == pytest.approx(0.299 * 250 + 0.587 * 120 + 0.114 * 10, abs=1)


@pytest.mark.parametrize(("background", "paper"), [("dark", 0.0), ("bright", 1.0), ("any", 0.0)])
def test_the_aspect_ratio_is_kept_and_padded_with_the_background(background: str, paper: float) -> None:
    grey = 100 if background == "dark" else 160
    wide = np.full((20, 80), grey, np.uint8)  # 4 : 1 into 8 x 12: 3 rows
    tensor = pixels_from_image(png(wide), spec(background=background), LIMIT).tensor[0, 0]
    filled = np.isclose(tensor, grey / 255, atol=0.01)
    assert filled.sum() == 3 * 12
    assert filled[2:5].all()
    assert (tensor[~filled] == paper).all()


def test_a_tall_image_is_centred() -> None:
    tall = np.full((80, 20), 100, np.uint8)
    tensor = pixels_from_image(png(tall), spec(), LIMIT).tensor[0, 0]
    assert (tensor[:, 5:7] > 0.3).all()
    assert (np.delete(tensor, [5, 6], axis=1) == 0).all()


def test_a_line_of_one_pixel_survives() -> None:
    assert pixels_from_image(png(np.full((1, 500), 90, np.uint8)), spec(), LIMIT).tensor.max() > 0.3


def test_a_bright_border_is_inverted_where_dark_is_wanted() -> None:
    image = scene()
    straight = pixels_from_image(png(image), spec(), LIMIT)
    negative = pixels_from_image(png(255 - image), spec(), LIMIT)
    assert negative.inverted
    assert np.array_equal(straight.tensor, negative.tensor)


def test_a_dark_border_is_inverted_where_bright_is_wanted() -> None:
    image = scene()
    pixels = pixels_from_image(png(image), spec(background="bright"), LIMIT)
    assert pixels.inverted
    assert pixels.tensor[0, 0] * 255 == pytest.approx(255 - image, abs=1e-3)


def test_nothing_is_inverted_where_any_background_is_right() -> None:
    for image in (scene(), 255 - scene()):
        assert not pixels_from_image(png(image), spec(background="any"), LIMIT).inverted


def test_a_large_bright_object_does_not_make_a_bright_background() -> None:
    image = np.full((20, 30), 255, np.uint8)
    image[[0, -1]] = 0
    image[:, [0, -1]] = 0
    assert image.mean() > 200
    assert not pixels_from_image(png(image), spec(), LIMIT).inverted


def test_an_object_at_one_edge_does_not_decide_about_the_background() -> None:
    image = np.zeros((20, 30), np.uint8)
    image[10:, :] = 255
    image[:, 28:] = 0
    image[:, :2] = 0
    assert not pixels_from_image(png(image), spec(), LIMIT).inverted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = scene()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    tensor = pixels_from_image(data, spec(), LIMIT).tensor[0, 0]
    assert tensor * 255 == pytest.approx(upright, abs=1e-3)


@pytest.mark.parametrize("background", ["dark", "bright"])
def test_transparency_shows_the_background(background: str) -> None:
    paper = 0 if background == "dark" else 255
    image = np.zeros((8, 12, 4), np.uint8)
    image[..., :3] = 255 - paper  # what is hidden has the other colour
    image[2:6, 3:9] = (128, 128, 128, 255)
    pixels = pixels_from_image(png(image), spec(background=background), LIMIT)
    expected = np.full((8, 12), paper)
    expected[2:6, 3:9] = 128
    assert pixels.tensor[0, 0] * 255 == pytest.approx(expected, abs=1e-3)
    assert not pixels.inverted


def test_half_transparency_is_mixed() -> None:
    image = np.zeros((8, 12, 2), np.uint8)
    image[2:6, 3:9] = (200, 128)
    data = encode(Image.fromarray(image, "LA"))
    assert pixels_from_image(data, spec(), LIMIT).tensor[0, 0, 4, 5] * 255 == pytest.approx(100, abs=1)


def test_a_transparent_palette_colour_shows_the_background() -> None:
    image = Image.fromarray(scene()).convert("P")
    image.info["transparency"] = 0
    data = encode(image, "GIF", transparency=0)
    assert pixels_from_image(data, spec(), LIMIT).tensor.shape == (1, 1, 8, 12)


def test_16_bits_are_scaled_and_not_cut_off() -> None:
    image = scene().astype(np.uint16) * 257
    assert pixels_from_image(png(image), spec(), LIMIT).tensor[0, 0] * 255 == pytest.approx(scene(), abs=1e-3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_colour_mode_is_read(mode: str) -> None:
    image = np.zeros((8, 12), np.uint8)
    image[2:6, 3:9] = 255
    format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encode(Image.fromarray(image).convert("RGB").convert(mode), format)
    tensor = pixels_from_image(data, spec(), LIMIT).tensor[0, 0]
    assert tensor[4, 5] > 0.9
    assert tensor[0, 0] < 0.1


def test_of_a_moving_image_the_first_frame_is_taken() -> None:
    frames = [Image.fromarray(np.full((8, 12), grey, np.uint8)) for grey in (10, 60, 110)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert pixels_from_image(buffer.getvalue(), spec(), LIMIT).tensor.max() * 255 == pytest.approx(10, abs=2)


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG whose head promises an enormous image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1001, 1000), (1_000_001, 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("the image was decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    with pytest.raises(RequestTooLarge, match=r"1000000 are allowed"):
        pixels_from_image(huge_png(*size), spec(), LIMIT)


def test_an_image_of_exactly_the_limit_is_read() -> None:
    assert pixels_from_image(png(np.zeros((1000, 1000), np.uint8)), spec(), LIMIT).tensor.shape == (1, 1, 8, 12)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        png(scene())[:40],
        png(scene())[:-30],
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        encode(Image.fromarray(scene()), "JPEG")[:200],
        b"GIF89a\xff\xff\xff\xff",
        b"BM" + b"\xff" * 60,
        b"RIFF\x10\0\0\0WEBPVP8 ",
        huge_png(100, 100),
        encode(Image.fromarray(scene()), "TIFF"),
        encode(Image.fromarray(scene()), "PPM"),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    ],
)
def test_what_is_no_whole_image_of_a_known_format_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        pixels_from_image(data, spec(), LIMIT)


def test_rows_are_taken_as_they_are() -> None:
    rows = scene().astype(np.float32)
    rows[3, 4] = 17.5
    pixels = pixels_from_rows(rows, spec(mean=0.5, std=0.5))
    assert pixels.tensor[0, 0] == pytest.approx((rows / 255 - 0.5) / 0.5, abs=1e-6)
    assert np.array_equal(pixels_from_rows(255 - rows, spec(mean=0.5, std=0.5)).tensor, pixels.tensor)
    assert pixels_from_rows(rows, spec(channels=3)).tensor.shape == (1, 3, 8, 12)


@pytest.mark.parametrize("value", [-0.1, 255.1])
def test_rows_outside_the_range_are_refused(value: float) -> None:
    rows = np.zeros((8, 12), np.float32)
    rows[0, 0] = value
    with pytest.raises(InvalidTensor, match="between 0 and 255"):
        pixels_from_rows(rows, spec())
