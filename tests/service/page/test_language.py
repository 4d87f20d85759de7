"""What a visitor sees and does, on a small language model with a tokenizer of its own."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest

from service.bundle import read_bundle, write_checksums
from tests.service.page.conftest import Look, Server, _tabs

TEXT = "what is read along one direction moves"


@pytest.fixture(scope="module")
def words(text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a service over the language model."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(text_bundle, root / "words" / "1")
    server = Server(repository=root)
    yield server
    server.close()


@pytest.fixture
def text(chromium: Any, words: Server) -> Iterator[Look]:
    """Return a tab that shows what the model does with the text."""
    look = _tabs(chromium)(words.url).open()
    look.page.fill("#prompt", TEXT)
    look.page.click("#run")
    look.page.wait_for_function(
        "(n) => document.getElementById('status').textContent.includes(n)", arg=f"× {count(words)}"
    )
    yield look
    look.page.context.close()
    assert look.foreign == []
    assert look.errors == []


def ask(server: Server, **body: Any) -> Any:
    body = {"inputs": {"prompt": TEXT}, **body}
    return httpx.post(f"{server.url}v1/models/words/gates", json=body).raise_for_status().json()


def count(server: Server) -> int:
    return len(ask(server)["results"][0]["tokens"]["ids"])


def tensor(answer: Any, name: str) -> np.ndarray:
    return np.array(answer["results"][0]["tensors"][name]["data"], float)


def test_squares_and_words_are_those_of_the_api(text: Look, words: Server) -> None:
    answer = ask(words, quantities=["beta", "e_pre_norm", "e_post_norm"])
    beta, before, after = (tensor(answer, name) for name in ("beta", "e_pre_norm", "e_post_norm"))
    page = text.page
    page.focus(".scroller")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    token = answer["results"][0]["tokens"]["text"][3]
    said = f"0.mlp · “{token}” (token 4) · β {beta[1, 3]:.2f}"
    page.wait_for_function("(text) => document.getElementById('live').textContent.startsWith(text)", arg=said)
    assert f"error {before[1, 3]:.2f} → {after[1, 3]:.2f}" in page.inner_text("#read")
    best = answer["results"][0]["prediction"]["top"][0]
    assert page.inner_text("#answer").startswith(
        f"next: {best['text'].strip()} {round(100 * np.exp(best['logprob']))} %"
    )


def test_a_token_opens_with_who_pushed_the_answer(text: Look, words: Server) -> None:
    last = count(words) - 1
    answer = ask(
        words, quantities=["logit_contrib", "survival"], select={"positions": [last]}, lens={"positions": [last]}
    )
    contrib, survival = tensor(answer, "logit_contrib")[:, 0, 0], tensor(answer, "survival")[:, 0]
    text.tab("token")
    page = text.page
    page.wait_for_selector("tr.sum")
    assert float(page.inner_text("tr.sum b").replace("−", "-")) == pytest.approx(contrib.sum(), abs=6e-4)
    titles = page.locator("table.token tbody tr").nth(1).locator("title").all_text_contents()
    assert f"{survival[0]:.2f} survives" in titles
    page.locator("details.card summary").first.click()
    assert page.locator(".gram rect").count() == 1  # one pair of two sites
    page.select_option("#target", "minus1")
    page.wait_for_function("() => document.querySelector('thead').textContent.includes('minus')")
    top = answer["results"][0]["prediction"]["top"]
    both = ask(
        words,
        quantities=["logit_contrib"],
        select={"positions": [last]},
        lens={"positions": [last], "targets": [top[0]["id"], top[1]["id"]]},
    )
    expected = tensor(both, "logit_contrib")[:, 0].sum(0)
    page.wait_for_function(
        "(b) => document.querySelector('tr.sum b').textContent === b", arg=f"{expected[0] - expected[1]:.3f}"
    )


def test_a_knocked_out_gate_changes_the_words_as_the_api_says(text: Look, words: Server) -> None:
    text.tab("intervene")
    page = text.page
    page.click("#knock-0")
    page.wait_for_selector("#effect .strip")
    changed = ask(words, interventions=[{"op": "set", "value": 0, "where": {"sites": ["0.attn"]}}])
    after = changed["results"][0]["prediction"]["top"]
    shown = page.locator("#effect .answers").nth(1).locator("span").all_inner_texts()
    assert shown == [word["text"].strip() or "·" * len(word["text"]) for word in after]
    kl = changed["results"][0]["effect"]["kl_nats"]
    assert page.locator("#effect .strip rect").count() == len(kl)
    page.check("input[name=mode][value=frozen]")
    page.wait_for_function("() => document.getElementById('direct').textContent.length > 0")
    page.click("#reset")
    page.wait_for_function("() => document.querySelectorAll('#effect .answers').length === 1")


def test_the_sweep_is_that_of_the_api(text: Look, words: Server) -> None:
    text.tab("intervene")
    page = text.page
    page.click("#sweep")
    page.wait_for_selector("#effect .bars")
    body = {"inputs": {"prompt": TEXT}, "values": [0.0]}
    answer = httpx.post(f"{words.url}v1/models/words/gates/sweep", json=body).raise_for_status().json()
    size = {variant["site"]: variant["effect"]["delta_nll"] for variant in answer["variants"]}
    order = sorted(size, key=lambda site: -abs(size[site]))
    assert page.locator("#effect .bars tbody th").all_inner_texts() == order
    labels = [svg.get_attribute("aria-label") for svg in page.locator("#effect .bars svg").all()]
    assert [float(str(label).replace("−", "-")) for label in labels] == pytest.approx(
        [size[s] for s in order], abs=6e-4
    )


def test_two_texts_are_matched_and_the_rest_is_grey(text: Look, words: Server) -> None:
    text.tab("compare")
    page = text.page
    page.fill("#other", TEXT.replace("one", "all"))
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_function("() => document.getElementById('compared').textContent.includes('matched')")
    ids = [
        ask(words, inputs={"prompt": prompt})["results"][0]["tokens"]["ids"]
        for prompt in (TEXT, TEXT.replace("one", "all"))
    ]
    pairs = text.module("align", "return m.columns(a[0], a[1]);", *ids)
    matched = sum(None not in pair for pair in pairs)
    assert f"{matched} tokens are matched, {len(pairs) - matched} are in one text only" in page.inner_text("#compared")


def test_a_text_goes_on_and_the_map_grows(text: Look, words: Server) -> None:
    page = text.page
    page.fill("#prompt", "what is")
    page.click("#run")
    before = len(ask(words, inputs={"prompt": "what is"})["results"][0]["tokens"]["ids"])
    length = "() => +/× (\\d+) tokens/.exec(document.getElementById('status').textContent)?.[1]"
    page.wait_for_function(f"(n) => ({length})() === n", arg=before)
    page.click("#continue")
    page.wait_for_function(f"(n) => ({length})() > n", arg=before)
    assert page.input_value("#prompt").startswith("what is")
    assert len(page.input_value("#prompt")) > len("what is")
    assert page.is_hidden("#stop")


def test_live_figures_are_shown(text: Look, words: Server) -> None:
    text.tab("fleet")
    page = text.page
    page.wait_for_selector(".status")
    stats = httpx.get(f"{words.url}v1/models/words/gates/stats").json()
    assert page.locator(".multiples .site").count() == len(stats["sites"])
    assert stats["message"] in page.inner_text(".status")


def test_gates_of_another_text_are_taken_as_by_the_api(text: Look, words: Server) -> None:
    other = TEXT.replace("one", "all")
    text.tab("intervene")
    page = text.page
    page.click("#view-intervene summary")
    page.fill("#patch", other)
    page.click("#use-patch")
    page.wait_for_selector("#effect .strip")
    patch = [{"op": "patch", "from": {"inputs": {"prompt": other}}}]
    effect = ask(words, interventions=patch)["results"][0]["effect"]
    assert f"{effect['applied']['cells']} gates changed" in page.inner_text("#effect")
    assert page.get_attribute("#use-patch", "aria-pressed") == "true"
    page.fill("#patch", "xyz")
    page.click("#use-patch")
    page.wait_for_function("() => document.getElementById('problem').textContent.includes('share no token')")
    text.errors.clear()  # the browser tells of the answer 422


def test_the_audits_gates_are_drawn_behind(words: Server, tab: Callable[..., Look], tmp_path: Path) -> None:
    shutil.copytree(words.repository / "words" / "1", tmp_path / "words" / "1")
    bundle = read_bundle(tmp_path / "words" / "1")
    assert bundle.manifest.gates is not None
    sites = [site.name for site in bundle.manifest.gates.sites]
    counts = [[0] * 16 + [40] * 2 + [0] * 46, [0] * 63 + [9]]
    reference = {
        "schema": "ddl.gates.reference/1",
        "id": "made",
        "created": "2026-01-01",
        "weights_sha256": bundle.manifest.weights_sha256,
        "dataset": {"name": "made up", "sha256": "0" * 64, "sequences": 2, "tokens": 80},
        "sites": sites,
        "counts": counts,
        "windows": [2],
        "thresholds": [[1.0] * len(sites)],
    }
    (bundle.folder / "reference.json").write_text(json.dumps(reference), encoding="utf-8")
    write_checksums(bundle.folder)
    server = Server(repository=tmp_path)
    try:
        look = tab(server.url).open()
        look.tab("spectrum")
        assert "the audit on made up" in look.page.inner_text("#view-spectrum .lead")
        assert look.page.locator("#view-spectrum rect.outline").count() == len(sites)
        rows = look.module("spectrum", "return m.spreadOf(a[0]);", counts)
        assert rows[0]["median"] == pytest.approx(17 * 2 / 64)
        assert rows[1]["bandLow"] == pytest.approx((63 + 0.05) * 2 / 64)
        assert look.errors == []
    finally:
        server.close()


def test_charts_are_saved_with_colours_of_their_own(text: Look) -> None:
    page = text.page
    page.click("#svg")
    assert "no chart" in page.inner_text("#shared")
    for view, least in (("spectrum", 3), ("token", 4)):
        text.tab(view)
        page.wait_for_selector(f"#view-{view} svg")
        with page.expect_download() as download:
            page.click("#svg")
        whole = ElementTree.parse(download.value.path()).getroot()
        shapes = [part for part in whole.iter() if part.tag.endswith(("rect", "line", "circle", "text"))]
        assert len([part for part in whole if part.tag.endswith("svg")]) >= least
        assert all(part.get("fill") for part in shapes)
        assert "0.attn" in "".join(whole.itertext())


def test_the_longest_numbers_are_not_cut(text: Look) -> None:
    text.tab("token")
    page = text.page
    page.wait_for_selector("tr.sum")
    assert text.module("dom", "return [m.short(-0.0013), m.short(1.3e-12)];") == ["−1.3e−3", "1.3e−12"]
    code = """() => { const all = [...document.querySelectorAll('table.token svg text')];
      all.forEach((t) => (t.textContent = '−1.3e−12'));
      return all.every((t) => t.getBoundingClientRect().right <= t.ownerSVGElement.getBoundingClientRect().right); }"""
    assert page.evaluate(code)
