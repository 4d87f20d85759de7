"""What a visitor sees and does, on the shipped classifier."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from service.security.keys import KeyFile, new_key, write_keys
from tests.service.page.conftest import Look, Server
from tests.service.page.test_pure import trace_file

VIEWS = ("map", "spectrum", "token", "intervene", "compare", "fleet")


def ask(server: Server, picture: str, *quantities: str) -> Any:
    """Ask the API what the page asks, without the page."""
    body = {"inputs": {"image": picture}, "quantities": list(quantities)}
    return httpx.post(f"{server.url}v1/models/fashion-mnist/gates", json=body).raise_for_status().json()


def picture_of(look: Look) -> str:
    return str(look.page.evaluate("document.querySelector('.picture img').src.split(',')[1]"))


def test_the_first_look_needs_no_click(look: Look) -> None:
    page = look.open().page
    assert "6 steps × 49 patches" in page.inner_text("#status")
    assert "Ankle boot" in page.inner_text("#answer")
    assert page.locator(".patches .tile canvas").count() == 6
    assert page.inner_text("#legend").split("\n") == ["0 keeps", "1 overwrites", "2 reflects"]
    assert page.is_visible("#hint")
    page.click("#gotit")
    assert not look.open().page.is_visible("#hint")


def test_each_square_has_the_colour_of_its_gate(look: Look, server: Server) -> None:
    look.open()
    answer = ask(server, picture_of(look), "beta")
    beta = np.array(answer["results"][0]["tensors"]["beta"]["data"])
    code = """[...document.querySelectorAll('.patches .layers canvas')]
        .map((c) => [...c.getContext('2d').getImageData(0, 0, 7, 7).data])"""
    pixels = np.array(look.page.evaluate(code)).reshape(6, 49, 4)[..., :3]
    names = [figure.strip() for figure in look.page.locator(".layers figcaption").all_inner_texts()]
    expected = look.module(
        "colour", "const s = m.scaleOf('beta', []); return a[0].map((v) => m.css(s, v));", beta.ravel().tolist()
    )
    expected = np.array([[int(part) for part in colour[4:-1].split()] for colour in expected]).reshape(6, 49, 3)
    assert names == [site["name"] for site in answer["sites"]]
    assert np.array_equal(pixels, expected)


def test_keys_move_over_the_patches_and_say_where_one_is(look: Look, server: Server) -> None:
    page = look.open().page
    beta = np.array(ask(server, picture_of(look), "beta")["results"][0]["tensors"]["beta"]["data"])
    page.focus(".patches")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowDown", "PageDown"):
        page.keyboard.press(key)
    said = f"0.mlp · patch 2 | 3 · β {beta[1, 9]:.2f}"
    page.wait_for_function("(text) => document.getElementById('live').textContent.startsWith(text)", arg=said)
    assert page.inner_text("#read").startswith(said)
    page.keyboard.press("Enter")
    assert page.inner_text(".tokenhead h2") == "patch 2 | 3"
    assert page.evaluate("document.activeElement.id") == "panel"


def test_the_token_view_shows_the_numbers_of_the_api(look: Look, server: Server) -> None:
    page = look.open().page
    answer = ask(server, picture_of(look), "beta", "erase_norm", "write_norm", "e_pre_norm", "e_post_norm")
    tensors = {name: np.array(t["data"]) for name, t in answer["results"][0]["tensors"].items()}
    page.locator(".layers .tile").nth(3).click(position={"x": 5, "y": 5})
    rows = page.locator("table.token tbody tr", has=page.locator(".chip"))
    for site in range(6):
        at = {name: values[site, 0] for name, values in tensors.items()}
        row = rows.nth(site)
        assert row.locator(".chip").inner_text() == f"{at['beta']:.2f}"
        titles = row.locator("title").all_text_contents()
        assert f"erased {at['erase_norm']:.2f}, written {at['write_norm']:.2f}" in titles
        assert f"error {at['e_pre_norm']:.2f} before, {at['e_post_norm']:.2f} after" in titles
    assert "chosen" in str(rows.nth(3).get_attribute("class"))


def test_the_spectrum_has_the_quantiles_of_numpy(look: Look, server: Server) -> None:
    page = look.open().page
    beta = np.array(ask(server, picture_of(look), "beta")["results"][0]["tensors"]["beta"]["data"])
    look.tab("spectrum")
    for site, row in enumerate(page.locator("#view-spectrum tbody tr").all()):
        low, median, high = np.quantile(beta[site], (0.05, 0.5, 0.95))
        assert row.locator("td.number").all_inner_texts() == [f"{median:.2f}", f"{low:.2f} – {high:.2f}"]


def test_the_csv_is_the_answer_of_the_api(look: Look, server: Server) -> None:
    page = look.open().page
    tensors = ask(server, picture_of(look), "beta", "e_pre_norm")["results"][0]["tensors"]
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == 6 * 49
    for name in ("beta", "e_pre_norm"):
        column = np.float32([row[name] for row in rows])
        assert np.array_equal(column, np.float32(tensors[name]["data"]).ravel())


def test_the_saved_file_opens_again_and_without_a_model(look: Look, tmp_path: Path) -> None:
    page = look.open().page
    with page.expect_download() as download:
        page.click("#safetensors")
    saved = tmp_path / "gates.safetensors"
    download.value.save_as(saved)
    with safe_open(saved, "numpy") as file:
        head = json.loads(file.metadata()["ddl.gates"])
        assert (head["model"], len(head["sites"])) == ("fashion-mnist", 6)
        assert file.get_tensor("beta").shape == (6, 49)
    before = page.evaluate("[...document.querySelectorAll('.layers canvas')].map((c) => c.toDataURL())")
    page.set_input_files("#file", saved)
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('from the file')")
    assert page.evaluate("[...document.querySelectorAll('.layers canvas')].map((c) => c.toDataURL())") == before


def test_the_picture_has_labels_and_a_legend(look: Look) -> None:
    page = look.open().page
    with page.expect_download() as download:
        page.click("#png")
    image = Image.open(download.value.path()).convert("RGB")
    assert image.width >= 1200
    assert image.getpixel((image.width - 20 - 260, 15)) == (5, 48, 97)  # the scale begins with keep
    assert len(image.crop((0, 60, 60, 180)).getcolors(4096)) > 2  # names of the sites


def test_a_link_shows_the_same_again(look: Look) -> None:
    page = look.open().page
    page.get_by_role("button", name="Bag").click()
    page.wait_for_function("() => document.getElementById('answer').textContent.includes('Bag')")
    page.select_option("#quantity", "eigenvalue")
    page.locator(".layers .tile").nth(2).click(position={"x": 40, "y": 40})
    page.wait_for_selector("tr.sum")  # what is asked for later is there as well
    before = (page.inner_text("#answer"), page.inner_text(".tokenhead h2"), page.inner_html("table.token"))
    page.wait_for_timeout(400)
    fragment = page.evaluate("location.hash")
    page.goto("about:blank")
    page = look.open(fragment).page
    page.wait_for_selector("tr.sum")
    assert (page.inner_text("#answer"), page.inner_text(".tokenhead h2"), page.inner_html("table.token")) == before
    assert page.input_value("#quantity") == "eigenvalue"


def test_a_link_to_other_weights_says_so(look: Look) -> None:
    look.open()
    state = {"model": "fashion-mnist", "version": "1", "weights": "f" * 64}
    fragment = look.module("link", "return m.pack(a[0]);", state)
    assert "model has changed" in look.open("#" + fragment).page.inner_text("#problem")


def test_an_uploaded_picture_is_classified(look: Look, tmp_path: Path) -> None:
    page = look.open().page
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "black.png")
    page.set_input_files("#pictureinput input[type=file]", tmp_path / "black.png")
    data = base64.b64encode((tmp_path / "black.png").read_bytes()).decode()
    page.wait_for_function("(data) => document.querySelector('.picture img').src.endsWith(data)", arg=data)


def test_two_pictures_are_compared_patch_by_patch(look: Look, server: Server) -> None:
    page = look.open().page
    first = np.array(ask(server, picture_of(look), "beta")["results"][0]["tensors"]["beta"]["data"])
    look.tab("compare")
    page.wait_for_selector("#compared .tile")
    page.locator("#compared .tile").nth(1).hover(position={"x": 3, "y": 3})
    said = page.inner_text("#compare-read")
    assert f"β first {first[1, 0]:.2f}, second" in said


def test_a_file_of_24_by_1024_is_drawn_and_hovered_in_time(look: Look, tmp_path: Path) -> None:
    page = look.open().page
    beta = trace_file(24, 1024, tmp_path / "long.safetensors")
    page.set_input_files("#file", tmp_path / "long.safetensors")
    page.wait_for_selector(".map .scroller")
    page.wait_for_function("() => document.querySelector('.cells').width > 300")
    assert page.is_visible(".overview")
    box = page.locator(".scroller").bounding_box()
    for step in range(12):
        page.mouse.move(box["x"] + 30 + 60 * step, box["y"] + 20 + 20 * step)
    assert page.inner_text("#read").startswith("11.mlp") or " · β " in page.inner_text("#read")
    for _ in range(5):
        page.select_option("#quantity", "beta")
        page.evaluate("document.querySelector('.scroller').scrollLeft += 50")
        page.wait_for_timeout(40)
    times = page.evaluate(
        "['map:draw', 'map:hover'].map((n) => performance.getEntriesByName(n).map((e) => e.duration))"
    )
    drawn, hovered = (sorted(values)[len(values) // 2] for values in times)
    assert drawn <= 50
    assert hovered <= 16
    page.focus(".scroller")
    page.keyboard.press("End")
    page.wait_for_function("() => document.getElementById('live').textContent.includes('token 1024')")
    assert f"β {beta[0, -1]:.2f}" in page.inner_text("#live")


def test_the_largest_answer_fits_into_memory(look: Look, tmp_path: Path) -> None:
    page = look.open().page
    trace_file(48, 1024, tmp_path / "large.safetensors", more=11)
    page.set_input_files("#file", tmp_path / "large.safetensors")
    page.wait_for_function("() => document.getElementById('status').textContent.includes('48 steps × 1024')")
    browser = page.context.new_cdp_session(page)
    browser.send("HeapProfiler.collectGarbage")
    used = browser.send("Runtime.getHeapUsage")
    held = used["usedSize"] + used.get("embedderHeapUsedSize", 0) + used.get("backingStorageSize", 0)
    assert 48 * 1024 * 12 * 4 < held <= 50e6


def test_it_is_ready_in_time(look: Look) -> None:
    times = []
    for _ in range(3):  # the best of them: other work on the machine is not the page's
        look.open()
        times.append(look.page.evaluate("performance.now()"))
    assert min(times) <= 1500


def test_colours_of_the_long_map_are_those_of_the_values(look: Look, tmp_path: Path) -> None:
    page = look.open().page
    beta = trace_file(6, 20, tmp_path / "short.safetensors", seed=3)
    page.set_input_files("#file", tmp_path / "short.safetensors")
    page.wait_for_function("() => document.querySelector('.cells')?.width > 300")
    cell = page.evaluate("document.querySelector('.inner').clientWidth") / 20
    at = [[site, place] for site in (0, 3, 5) for place in (0, 7, 19)]
    code = """(at) => at.map(([site, place, cell]) => [...document.querySelector('.cells').getContext('2d')
        .getImageData((place + 0.5) * cell, site * 24 + Math.floor(site / 2) * 4 + 10, 1, 1).data].slice(0, 3))"""
    seen = page.evaluate(code, [[*pair, cell] for pair in at])
    expected = look.module(
        "colour",
        "const s = m.scaleOf('beta', []); return a[0].map((v) => m.css(s, v));",
        [float(beta[s, p]) for s, p in at],
    )
    assert [f"rgb({r} {g} {b})" for r, g, b in seen] == expected


def test_a_broken_file_is_explained(look: Look, tmp_path: Path) -> None:
    page = look.open().page
    (tmp_path / "broken.safetensors").write_bytes(b"not at all what it says")
    page.set_input_files("#file", tmp_path / "broken.safetensors")
    page.wait_for_function("() => document.getElementById('problem').textContent.includes('cannot be shown')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(tab: Callable[..., Look], server: Server, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="NOT TESTED: pip install axe-playwright-python"
    ).Axe()
    look = tab(server.url, color_scheme=scheme, bypass_csp=True).open()
    for view in VIEWS:
        look.tab(view)
        look.page.wait_for_timeout(250)
        found = axe.run(look.page).response["violations"]
        assert [(v["id"], [node["html"][:160] for node in v["nodes"]]) for v in found] == [], view


@pytest.mark.parametrize("width", [360, 720, 1600])
def test_nothing_sticks_out_at_any_width(look: Look, width: int) -> None:
    look.page.set_viewport_size({"width": width, "height": 800})
    look.open()
    for view in VIEWS:
        look.tab(view)
        look.page.wait_for_timeout(150)
        assert look.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_a_key_is_asked_for_and_forgotten_with_the_tab(tab: Callable[..., Look], tmp_path: Path) -> None:
    key, record = new_key("visitor", ["infer", "gates"])
    write_keys(tmp_path / "keys.json", KeyFile(keys=(record,)))
    server = Server(api_keys=tmp_path / "keys.json")
    try:
        page = tab(server.url).open().page
        assert page.is_visible("#keydialog")
        page.fill("#key", key)
        page.get_by_role("button", name="Use it").click()
        page.wait_for_selector(".patches")
        assert key not in page.evaluate("JSON.stringify(localStorage) + location.href + document.cookie")
        assert page.reload()
        page.wait_for_selector(".patches")
        assert tab(server.url).open().page.is_visible("#keydialog")
    finally:
        server.close()


def test_a_convolutional_step_is_shown_place_by_place(look: Look, server: Server) -> None:
    page = look.open().page
    about = httpx.get(f"{server.url}v1/models/fashion-mnist-resnet/gates/meta").json()
    assert about["value_grid"] == [28, 28]
    page.select_option("#model", label="fashion-mnist-resnet · version 1")
    page.wait_for_function("() => document.getElementById('status').textContent.includes('resnet')")
    with page.expect_request(lambda request: '"proj"' in (request.post_data or "")) as asked:
        look.tab("token")
    body = {"inputs": asked.value.post_data_json["inputs"], "quantities": ["v", "proj"]}
    page.wait_for_selector(".fields canvas")
    assert page.locator(".fields").count() == len(about["sites"])
    sizes = page.evaluate("[...document.querySelectorAll('.fields canvas')].map((c) => c.width * c.height)")
    assert sizes[:2] == [784, 784]
    assert sizes[-2:] == [49, 49]  # later stages have fewer places
    found = httpx.post(f"{server.url}v1/models/fashion-mnist-resnet/gates", json=body).raise_for_status().json()
    answer = found["results"][0]["tensors"]
    target = np.array(answer["v"]["data"][0][0])
    both = np.abs(np.concatenate([target, answer["proj"]["data"][0][0]])).max()
    code = """[...document.querySelectorAll('.fields canvas')][1].getContext('2d').getImageData(0, 0, 28, 28).data"""
    pixels = np.array(page.evaluate(f"[...{code}]")).reshape(784, 4)[:, :3]
    wanted = look.module(
        "colour",
        "const s = { ...m.scaleOf('difference', []), low: -a[1], high: a[1] }; return a[0].map((v) => m.css(s, v));",
        target.tolist(),
        float(both),
    )
    expected = np.array([[int(part) for part in colour[4:-1].split()] for colour in wanted])
    assert (np.abs(pixels - expected).max(1) <= 1).mean() > 0.99  # the largest went through 32 bits


def test_a_model_whose_gates_cannot_be_changed_says_why(look: Look, server: Server) -> None:
    page = look.open().page
    about = httpx.get(f"{server.url}v1/models/fashion-mnist/gates/meta").json()["interventions"]
    look.tab("intervene")
    if about["available"]:
        assert page.locator(".slider").count() == 6
    else:
        assert about["reason"] in page.inner_text("#view-intervene")
