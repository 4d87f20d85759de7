"""The page's arithmetic, run in the browser: colours, links, alignment, replay, files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.service.page.conftest import Look


@pytest.fixture
def bare(look: Look) -> Look:
    """Return a tab in which nothing but the asked modules runs."""
    look.page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    look.page.goto(look.url + "page/icon.svg")
    return look


def colours(bare: Look, quantity: str, values: list[Any]) -> list[list[int]]:
    code = "const s = m.scaleOf(a[0], [1]); return a[1].map((v) => m.css(s, v ?? NaN));"
    found = bare.module("colour", code, quantity, values)
    return [[int(part) for part in colour[4:-1].split()] for colour in found]


def test_the_gates_scale_is_fixed_with_white_at_one(bare: Look) -> None:
    assert colours(bare, "beta", [0, 1, 2]) == [[5, 48, 97], [247, 247, 247], [103, 0, 31]]
    assert colours(bare, "eigenvalue", [1, 0, -1]) == colours(bare, "beta", [0, 1, 2])
    assert colours(bare, "beta", [-1, 5, None]) == [[5, 48, 97], [103, 0, 31], [0, 0, 0]]


def test_equal_distance_from_one_is_equally_light(bare: Look) -> None:
    for distance in (0.2, 0.5, 0.9):
        below, above = (np.array(colour) for colour in colours(bare, "beta", [1 - distance, 1 + distance]))
        weights = np.array([0.2126, 0.7152, 0.0722])
        assert abs(float(weights @ below - weights @ above)) < 35


def test_amounts_are_shown_from_their_first_to_their_last_percent(bare: Look) -> None:
    data = np.logspace(-3, 3, 401)
    code = """const s = m.scaleOf('update_ratio', a[0]);
      return [s.low, s.high, s.log, m.place(s, s.low), m.place(s, s.high)];"""
    low, high, log, first, last = bare.module("colour", code, data.tolist())
    assert (low, high) == (pytest.approx(np.quantile(data, 0.01)), pytest.approx(np.quantile(data, 0.99)))
    assert (log, first, last) == (True, 0, pytest.approx(1))


def test_a_link_carries_the_state_and_a_damaged_one_says_so(bare: Look) -> None:
    state = {"prompt": "Größe 🙂\n" + "a girl " * 280, "sets": {"0.attn": 0}, "ids": [1, 2]}
    packed = bare.module("link", "return m.pack(a[0]);", state)
    assert len(packed) < 1100
    assert packed.replace("-", "").replace("_", "").isalnum()
    assert bare.module("link", "return m.unpack(a[0]);", packed) == state
    code = "try { await m.unpack(a[0]); } catch (e) { return e.message; }"
    assert "damaged" in bare.module("link", code, packed[:-9])


def test_a_link_cannot_put_anything_but_values_of_the_right_kind(bare: Look) -> None:
    code = "const s = new m.State(); s.restore(a[0]); return s.shared;"
    given = {
        "prompt": 5,
        "sets": {"0.attn": 9},
        "image": "javascript:alert(1)",
        "view": "token",
        "unknown": 1,
        "ids": "x",
    }
    found = bare.module("state", code, given)
    assert (found["prompt"], found["sets"], found["image"], found["ids"], found["view"]) == (
        "",
        {},
        None,
        None,
        "token",
    )
    assert "unknown" not in found


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], [[0, 0], [1, 1], [2, 2]]),
        ([1, 2, 3], [1, 9, 3], [[0, 0], [1, None], [None, 1], [2, 2]]),
        ([1, 1], [1, 1, 1], [[0, 0], [1, 1], [None, 2]]),
        ([4], [5], [[0, None], [None, 0]]),
        ([], [5], [[None, 0]]),
    ],
)
def test_texts_are_matched_from_both_ends(bare: Look, first: list[int], second: list[int], expected: Any) -> None:
    assert bare.module("align", "return m.columns(a[0], a[1]);", first, second) == expected


def test_the_replay_of_other_gates_is_the_network_with_all_else_held(bare: Look) -> None:
    rng = np.random.default_rng(4)
    sites, width, channels = 7, 12, 3
    k = rng.standard_normal((sites, width))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    v, start = rng.standard_normal((sites, channels)), rng.standard_normal((width, channels))
    beta, other = rng.uniform(0, 2, sites), rng.uniform(0, 2, sites)

    def run(gates: Any) -> Any:
        state, reads = start.copy(), []
        for s in range(sites):
            reads.append(k[s] @ state)
            state = state + gates[s] * np.outer(k[s], v[s] - reads[-1])
        return np.array(reads)

    gram = (k @ k.T)[np.tril_indices(sites, -1)]
    column = {"beta": beta.tolist(), "v": v.tolist(), "proj": run(beta).tolist(), "gram": gram.tolist()}
    code = "return [m.embeddingReadout(a[0]), m.replay(a[0], a[1]).proj];"
    first, found = bare.module("depth", code, column, other.tolist())
    np.testing.assert_allclose(first, k @ start, atol=1e-12)
    np.testing.assert_allclose(found, run(other), atol=1e-12)


def test_safetensors_are_read_and_written_as_the_library_does(bare: Look) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "h": np.array([1.5, -2e-5, 65504], np.float16)}
    code = """const { metadata, tensors } = m.readSafetensors(Uint8Array.from(a[0]).buffer);
      const blob = m.writeSafetensors(metadata, tensors);
      const bytes = new Uint8Array(await blob.arrayBuffer());
      return [metadata, [...tensors].map(([n, t]) => [n, t.shape, [...t.data]]), [...bytes]];"""
    metadata, tensors, written = bare.module("safetensors", code, list(save(arrays, {"x": "ü"})))
    assert metadata == {"x": "ü"}
    for name, shape, values in tensors:
        assert shape == list(arrays[name].shape)
        assert np.array_equal(np.float32(values), arrays[name].astype(np.float32).ravel())
    again = load(bytes(written))
    assert np.array_equal(again["a"], arrays["a"])


def test_a_file_that_is_none_says_what_is_wrong(bare: Look) -> None:
    code = "try { m.tracesOfSafetensors(Uint8Array.from(a[0]).buffer); } catch (e) { return e.message; }"
    assert "too short" in bare.module("trace", code, [1, 2])
    assert "not a safetensors" in bare.module("trace", code, list(b"PK\x03\x04" * 20))
    assert "no gates" in bare.module("trace", code, list(save({"a": np.zeros(2, np.float32)})))


def test_events_are_read_however_they_are_cut(bare: Look) -> None:
    text = 'event: token\ndata: {"a": 1}\n\n: hello\n\ndata: {"b":\ndata: 2}\r\n\r\ndata: [DONE]\n\n'
    code = """const found = [];
      for (const size of [1, 7, 999]) {
        const bytes = new TextEncoder().encode(a[0]);
        const stream = new ReadableStream({ start(c) {
          for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size));
          c.close();
        } });
        await m.readEvents(stream, (name, data) => found.push([name, data]));
      }
      return found;"""
    once = [["token", {"a": 1}], ["message", {"b": 2}]]
    assert bare.module("api", code, text) == once * 3


def trace_file(sites: int, positions: int, path: Path, seed: int = 0, more: int = 0) -> np.ndarray:
    """Write a trace as the API would, with gates at random, and return them; `more` quantities have the same values."""
    rng = np.random.default_rng(seed)
    beta = (2 / (1 + np.exp(-2 * rng.standard_normal((sites, positions))))).astype(np.float32)
    described = {"axes": ["site", "position"], "shape": [sites, positions], "unit": "1", "dtype": "f32", "nonfinite": 0}
    names = ["beta", *(f"more-{i}" for i in range(more))]
    head = {
        "schema": "ddl.gates/1",
        "model": "far-away",
        "version": "7",
        "update_rule": "delta",
        "weights_sha256": "0" * 64,
        "sites": [
            {
                "index": i,
                "name": f"{i // 2}.{('attn', 'mlp')[i % 2]}",
                "layer": i // 2,
                "sublayer": ("attn", "mlp")[i % 2],
            }
            for i in range(sites)
        ],
        "results": [
            {
                "tokens": {"ids": list(range(positions)), "text": [f" w{i}" for i in range(positions)]},
                "tensors": dict.fromkeys(names, described),
            }
        ],
    }
    path.write_bytes(save(dict.fromkeys(names, beta), {"ddl.gates": json.dumps(head)}))
    return beta
