import io
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.service.conftest import Client, b64, encode, png
from tests.service.tiny_bundle import HEIGHT, LABELS, MEAN, STD, WIDTH, BundleMaker, reference

CLASSIFY = "/v1/models/tiny/classify"


@pytest.fixture
def grey() -> np.ndarray:
    image = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    image[[0, -1]] = 0
    image[:, [0, -1]] = 0
    return image


def expected_probabilities(maker: BundleMaker, grey: np.ndarray) -> np.ndarray:
    pixels = ((grey / 255 - MEAN) / STD)[None, None]
    return reference(maker.weights, pixels)["probabilities"][0]


def ways(image: bytes) -> dict[str, dict[str, Any]]:
    """Return the ways in which an image can be sent."""
    return {
        "upload": {"files": {"image": ("boot.png", image, "image/png")}},
        "upload without type": {"files": {"image": ("boot", image)}},
        "raw": {"content": image, "headers": {"content-type": "image/png"}},
        "base64": {"json": {"image": b64(image)}},
        "data url": {"json": {"image": "data:image/png;base64," + b64(image)}},
    }


@pytest.mark.parametrize("way", ways(b""))
def test_every_way_of_sending_an_image_gives_the_independent_probabilities(
    client: Client, maker: BundleMaker, grey: np.ndarray, way: str
) -> None:
    expected = expected_probabilities(maker, grey)
    answer = client.post(CLASSIFY, **ways(png(grey))[way]).json()
    assert (answer["model"], answer["version"], answer["inverted"], answer["warnings"]) == ("tiny", "1", False, [])
    order = np.argsort(-expected)
    assert [p["index"] for p in answer["predictions"]] == order.tolist()
    assert [p["label"] for p in answer["predictions"]] == [LABELS[i] for i in order]
    assert [p["probability"] for p in answer["predictions"]] == pytest.approx(expected[order], rel=1e-3, abs=1e-5)
    assert list(answer["timing_ms"]) == ["receive", "queue", "decode", "model"]
    assert all(ms >= 0 for ms in answer["timing_ms"].values())


def test_pixels_are_taken_as_they_are(client: Client, maker: BundleMaker, grey: np.ndarray) -> None:
    values = grey.astype(float)
    values[3, 3] = 99.5
    answer = client.post(CLASSIFY, json={"pixels": values.tolist()}).json()
    expected = expected_probabilities(maker, values)
    assert [p["probability"] for p in answer["predictions"]] == pytest.approx(np.sort(expected)[::-1], rel=1e-3)


def test_a_bright_image_is_inverted_and_the_answer_says_so(client: Client, grey: np.ndarray) -> None:
    dark = client.post(CLASSIFY, **ways(png(grey))["raw"]).json()
    bright = client.post(CLASSIFY, **ways(png(255 - grey))["raw"]).json()
    assert bright["predictions"] == dark["predictions"]
    assert bright["inverted"]
    assert "was inverted" in bright["warnings"][0]


@pytest.mark.parametrize(("query", "count"), [("", 4), ("?top=1", 1), ("?top=3", 3), ("?top=1000", 4)])
def test_top(client: Client, grey: np.ndarray, query: str, count: int) -> None:
    answer = client.post(CLASSIFY + query, **ways(png(grey))["raw"]).json()
    assert len(answer["predictions"]) == count


@pytest.mark.parametrize("top", ["0", "-1", "1001", "five", ""])
def test_a_wrong_top_is_422_and_not_repeated(client: Client, top: str) -> None:
    response = client.post(CLASSIFY, params={"top": top}, json={})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "query.top"
    assert "five" not in response.text


def test_the_version_can_be_named(client: Client, grey: np.ndarray) -> None:
    assert client.post(CLASSIFY + "?version=1", **ways(png(grey))["raw"]).status_code == 200
    assert client.post(CLASSIFY + "?version=2", **ways(png(grey))["raw"]).status_code == 404
    assert client.post("/v1/models/nix/classify", **ways(png(grey))["raw"]).status_code == 404


@pytest.mark.parametrize(
    ("options", "status", "slug"),
    [
        ({"content": b"x", "headers": {"content-type": "image/png"}}, 400, "invalid-image"),
        ({"content": b"", "headers": {"content-type": "image/jpeg"}}, 400, "invalid-image"),
        ({"json": {"image": "%%%"}}, 400, "invalid-image"),
        ({"json": {"image": "é"}}, 400, "invalid-image"),
        ({"json": {"image": ""}}, 400, "invalid-image"),
        ({"json": {}}, 422, "invalid-fields"),
        ({"json": {"image": "AA==", "pixels": [[0]]}}, 422, "invalid-fields"),
        ({"json": {"image": 5}}, 422, "invalid-fields"),
        ({"json": {"picture": "AA=="}}, 422, "invalid-fields"),
        ({"json": {"pixels": [0, 1]}}, 422, "invalid-fields"),
        ({"json": {"pixels": []}}, 422, "invalid-tensor"),
        ({"json": {"pixels": [[0] * 12] * 7}}, 422, "invalid-tensor"),
        ({"json": {"pixels": [[0] * 12] * 7 + [[0] * 11]}}, 422, "invalid-tensor"),
        ({"json": {"pixels": [["0"] * 12] * 8}}, 422, "invalid-tensor"),
        ({"json": {"pixels": [[True] * 12] * 8}}, 422, "invalid-tensor"),
        ({"json": {"pixels": [[256] * 12] * 8}}, 422, "invalid-tensor"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid-request"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported-media"),
        ({"content": b"x", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 415, "unsupported-media"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "invalid-request"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "invalid-request"),
        ({"files": {"picture": ("a.png", b"x")}}, 400, "invalid-request"),
        ({"files": [("image", ("a", b"x")), ("image", ("b", b"x"))]}, 400, "invalid-request"),
        ({"files": {"image": ("a.png", b"x")}, "data": {"top": "1"}}, 400, "invalid-request"),
        ({"files": {"image": (None, "text")}}, 400, "invalid-request"),
    ],
)
def test_what_is_wrong_is_named(client: Client, options: dict[str, Any], status: int, slug: str) -> None:
    response = client.post(CLASSIFY, **options)
    assert response.status_code == status, response.text
    assert response.json()["type"] == f"urn:ddl:problem:{slug}"


def test_an_image_with_too_many_pixels_is_413(serve: Any) -> None:
    client = serve(max_image_pixels=100)
    response = client.post(CLASSIFY, **ways(png(np.zeros((10, 11), np.uint8)))["upload"])
    assert response.status_code == 413
    assert response.json()["limit_pixels"] == 100
    assert client.post(CLASSIFY, **ways(png(np.zeros((10, 10), np.uint8)))["upload"]).status_code == 200


LIMIT = 2048


@pytest.fixture(scope="module")
def narrow(repository: Any) -> Any:
    from service.app import create_app
    from service.settings import Settings

    client = Client(create_app(Settings(repository=repository, max_body_bytes=LIMIT)))
    yield client
    client.close()


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 400), (LIMIT + 1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_413_whether_its_length_is_declared_or_not(
    narrow: Client, size: int, status: int, chunked: bool
) -> None:
    async def chunks() -> Any:
        for start in range(0, size, 500):
            yield b"x" * min(500, size - start)

    content = chunks() if chunked else b"x" * size
    response = narrow.post(CLASSIFY, content=content, headers={"content-type": "image/png"})
    assert ("content-length" in response.request.headers) != chunked
    assert response.status_code == status
    if status == 413:
        assert response.json()["limit_bytes"] == LIMIT


def test_a_declared_length_above_the_limit_is_refused_before_the_body_is_read(narrow: Client) -> None:
    read = 0

    async def chunks() -> Any:
        nonlocal read
        read += 1
        yield b"x"

    headers = {"content-type": "image/png", "content-length": str(10**12)}
    assert narrow.post(CLASSIFY, content=chunks(), headers=headers).status_code == 413
    assert read == 0


def test_an_endless_body_is_cut_off_at_the_limit(narrow: Client) -> None:
    read = 0

    async def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield b"x" * 1000

    assert narrow.post(CLASSIFY, content=endless(), headers={"content-type": "image/png"}).status_code == 413
    assert read == 3


def test_an_upload_above_the_limit_is_413(narrow: Client) -> None:
    assert narrow.post(CLASSIFY, **ways(b"x" * (LIMIT + 1))["upload"]).status_code == 413


def noise_images() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return [encode(image, format) for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP")]


IMAGES = noise_images()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damaged_image_makes_the_service_fail(client: Client, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(IMAGES)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    response = client.post(CLASSIFY, content=bytes(content), headers={"content-type": "image/png"})
    assert response.status_code in (200, 400, 413)


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    + IMAGES[0]
    + b"\r\n--b--\r\n"
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damaged_form_makes_the_service_fail(client: Client, data: st.DataObject) -> None:
    content = bytearray(FORM)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    headers = {"content-type": "multipart/form-data; boundary=" + data.draw(st.sampled_from(["b", "bb", '"b', ""]))}
    response = client.post(CLASSIFY, content=bytes(content), headers=headers)
    assert response.status_code in (200, 400)


def test_a_large_photo_is_classified(client: Client) -> None:
    buffer = io.BytesIO()
    Image.effect_mandelbrot((2400, 1800), (-2, -1.5, 1, 1.5), 20).save(buffer, "JPEG")
    assert buffer.tell() > 100_000
    for way in ("raw", "upload", "base64"):
        assert client.post(CLASSIFY, **ways(buffer.getvalue())[way]).status_code == 200
