"""The forms of an answer, its reductions and its size, and how traces share the machine."""

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from service.api.state import State
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.gates.frames import Frames, GatesField
from service.gates.reductions import Reduction, reduce_all
from service.gates.selection import Select, resolve
from tests.service.conftest import until
from tests.service.gates.conftest import Served, arrays, tokens_of

SAFETENSORS = {"accept": "application/vnd.safetensors"}


def header_of(body: bytes) -> Any:
    length = int.from_bytes(body[:8], "little")
    return json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["ddl.gates"])


def test_both_forms_hold_the_same_numbers_bit_by_bit(served: Served) -> None:
    body = {
        "inputs": {"prompt": ["a delta rule", "moves"]},
        "quantities": ["page", "lens_topk", "gram"],
        "interventions": [{"op": "scale", "value": 0.5}],
    }
    as_json = served.post("words", body).json()
    binary = served.post("words", body, headers=SAFETENSORS)
    assert binary.headers["content-type"] == "application/vnd.safetensors"
    by_format = served.post("words", {**body, "output": {"format": "safetensors"}})
    found = load(binary.content)
    assert {name: array.tobytes() for name, array in load(by_format.content).items()} == {
        name: array.tobytes() for name, array in found.items()
    }
    header = header_of(binary.content)
    for index, result in enumerate(as_json["results"]):
        for prefix, part in ((f"{index}/", result), (f"{index}/baseline/", result["baseline"])):
            for name, tensor in part["tensors"].items():
                data = np.array(tensor["data"], np.float64).astype(found[prefix + name].dtype)
                np.testing.assert_array_equal(data, found.pop(prefix + name))
        told = header["results"][index]
        assert told["tensors"]["beta"] == {
            key: value for key, value in result["tensors"]["beta"].items() if key != "data"
        }
        assert told["tokens"] == result["tokens"]
        assert told["effect"] == result["effect"]
    assert not found
    one = load(served.post("words", {"inputs": {"prompt": "moves"}}, headers=SAFETENSORS).content)
    assert list(one) == ["beta"]


def test_half_precision_is_said_and_close(served: Served) -> None:
    ids = {"token_ids": tokens_of(served)}
    full = arrays(served.ask("words", ids)["results"][0])["beta"]
    half = served.ask("words", ids, output={"dtype": "f16", "tokens": False})["results"][0]
    assert half["tensors"]["beta"]["dtype"] == "f16"
    assert half["tokens"] is None
    np.testing.assert_allclose(arrays(half)["beta"], full, atol=5e-4)


def test_reductions_are_numpys(served: Served) -> None:
    reduce = [
        {"op": "none"},
        {"op": "mean", "over": ["site", "position"]},
        {"op": "histogram", "bins": 16},
        {"op": "quantile", "quantity": "beta", "q": [0.1, 0.5]},
        {"op": "regimes"},
        {"op": "topk", "quantity": "e_pre_norm", "k": 4},
    ]
    names = ["beta", "e_pre_norm"]
    result = served.ask("words", {"token_ids": tokens_of(served)}, quantities=names, reduce=reduce)["results"][0]
    values = arrays(result)
    beta, errors = values["beta"], values["e_pre_norm"]
    means = {r["quantity"]: r["data"] for r in result["reductions"] if r["op"] == "mean"}
    assert means == {"beta": pytest.approx(beta.mean(), 1e-6), "e_pre_norm": pytest.approx(errors.mean(), 1e-6)}
    found = {r["op"]: r for r in result["reductions"]}
    counts = [np.histogram(row, 16, (0, 2))[0].tolist() for row in beta]
    assert found["histogram"]["counts"] == counts
    assert found["histogram"]["n"] == beta.shape[1] == sum(counts[0])
    np.testing.assert_allclose(found["quantile"]["data"], np.quantile(beta, [0.1, 0.5], axis=1).T, rtol=1e-6)
    shares = np.array(found["regimes"]["fraction"])
    np.testing.assert_allclose(shares.sum(-1), 1.0)
    np.testing.assert_allclose(shares[:, 0], (beta < 0.25).mean(1))
    best = [(row["site"], row["position"]) for row in found["topk"]["rows"]]
    order = np.argsort(-errors.ravel(), kind="stable")[:4]
    assert best == [tuple(map(int, np.unravel_index(i, errors.shape))) for i in order]
    assert found["topk"]["rows"][0]["token"] == result["tokens"]["text"][best[0][1]]
    only = served.ask("words", {"token_ids": [5, 6]}, reduce=[{"op": "mean"}])["results"][0]
    assert only["tensors"] == {}


def test_the_histogram_of_several_inputs_is_the_sum_of_theirs(served: Served) -> None:
    texts = ["a delta rule", "moves", "what is read along one direction"]
    reduce = [{"op": "none"}, {"op": "histogram", "bins": 32}]
    results = served.ask("words", {"prompt": texts}, reduce=reduce)["results"]
    counts = [next(r for r in result["reductions"] if r["op"] == "histogram") for result in results]
    together = np.concatenate([arrays(result)["beta"] for result in results], axis=1)
    expected = [np.histogram(row, 32, (0, 2))[0] for row in together]
    np.testing.assert_array_equal(np.sum([part["counts"] for part in counts], 0), expected)
    assert sum(part["n"] for part in counts) == together.shape[1] == np.sum(expected, 1)[0]
    for text, part in zip(texts, counts, strict=True):
        (alone,) = served.ask("words", {"prompt": text}, reduce=reduce[1:])["results"][0]["reductions"]
        assert alone == part


def test_ties_go_by_site_and_position_and_histograms_close_at_the_right(served: Served) -> None:
    gates = served.client.state.repository.get("words").manifest.gates
    assert gates is not None
    selection = resolve(Select(), gates, 3)
    values = {"beta": np.array([[2, 1, 2], [2, 0, 1], [1, 1, 1], [0, 0, 2]], np.float32)}
    wishes = [Reduction(op="topk", quantity="beta", k=3), Reduction(op="histogram", bins=2)]
    top, histogram = reduce_all(wishes, values, selection, None)
    assert [(row["site"], row["position"]) for row in top["rows"]] == [(0, 0), (0, 2), (1, 0)]
    assert histogram["counts"].tolist() == [[0, 3], [1, 2], [0, 3], [2, 1]]


@pytest.mark.parametrize(
    "fields",
    [
        {"quantities": "page"},
        {"quantities": ["gram"], "select": {"positions": {"from": 1}}},
        {"quantities": ["beta"], "interventions": [{"op": "set", "value": 1}]},
        {"quantities": ["lens_topk", "logit_contrib"], "lens": {"top_k": 9}},
        {"quantities": ["beta"], "reduce": [{"op": "histogram"}, {"op": "none"}]},
    ],
)
def test_an_answer_too_large_is_refused_before_the_run(
    served: Served, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state: State = served.client.state
    body = {"inputs": {"token_ids": [tokens_of(served), [5, 6, 7]]}, **fields}
    found = served.post("words", body).json()
    cells = sum(
        np.size(t["data"])
        for result in found["results"]
        for part in (result, result["baseline"])
        if part
        for t in part["tensors"].values()
    )
    assert cells > 10
    monkeypatch.setattr(state, "settings", state.settings.model_copy(update={"json_cells": 10}))
    session = state.repository.get("words").session
    run, runs = session.run, []

    def counted(*arguments: Any, **options: Any) -> Any:
        runs.append(1)
        return run(*arguments, **options)

    monkeypatch.setattr(session, "run", counted)
    refused = served.post("words", body)
    assert (refused.status_code, runs) == (413, [])
    assert refused.json()["cells"] >= cells
    assert {"output": {"format": "safetensors"}} in refused.json()["try"]
    for patch in refused.json()["try"]:
        assert served.post("words", {**body, **patch}).status_code == 200, patch


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ({"token_ids": [5] * 4097}, "input-too-long"),
        ({"token_ids": [270]}, "invalid-fields"),
        ({"token_ids": []}, "invalid-fields"),
        ({"prompt": ["a"] * 9}, "invalid-fields"),
        ({"image": "AAAA"}, "task-mismatch"),
    ],
)
def test_inputs_that_cannot_be_traced(served: Served, inputs: dict[str, Any], kind: str) -> None:
    response = served.post("words", {"inputs": inputs})
    assert (response.status_code, response.json()["type"]) == (422, f"urn:ddl:problem:{kind}")


def test_many_at_once_are_as_one_after_another(served: Served) -> None:
    texts = ["a delta rule", "moves what is read", "towards", "leaves all others alone"]
    bodies = [
        {"inputs": {"prompt": texts[i % 4]}, "quantities": ["beta", "e_post"], "interventions": changes}
        for i, changes in enumerate(([], [{"op": "set", "value": 0.5}], [{"op": "drop_erase"}], []) * 2)
    ]
    alone = [served.post("words", body).json()["results"] for body in bodies]

    async def together() -> list[Any]:
        path = "/v1/models/words/gates"
        return await asyncio.gather(*(served.client.arequest("POST", path, json=body) for body in bodies))

    answers = served.client.run(together())
    assert [answer.json()["results"] for answer in answers] == alone


def test_whoever_hangs_up_leaves_predictions_as_they_are(served: Served) -> None:
    model, path = served.client.state.repository.get("words"), "/v1/models/words/gates"
    feed = {"input_ids": np.array([tokens_of(served)])}
    body = {"inputs": {"token_ids": tokens_of(served)}, "interventions": [{"op": "set", "value": 0}]}

    async def scenario() -> None:
        before = (await model.batcher.run(feed, ["logits"]))["logits"]
        traces = [asyncio.create_task(served.client.arequest("POST", path, json=body)) for _ in range(8)]
        beside = [asyncio.create_task(model.batcher.run(feed, ["logits"])) for _ in range(8)]
        await asyncio.sleep(0.005)
        for trace in traces[::2]:
            trace.cancel()
        done = await asyncio.gather(*traces, return_exceptions=True)
        assert [answer.status_code for answer in done[1::2]] == [200] * 4  # type: ignore[union-attr]
        for answer in [*await asyncio.gather(*beside), await model.batcher.run(feed, ["logits"])]:
            assert np.array_equal(answer["logits"], before)

    served.client.run(scenario())


class BusyTraces:
    """Occupies every worker for traces."""

    def __init__(self, served: Served) -> None:
        self._traces = served.client.state.traces

    async def __aenter__(self) -> None:
        release = self._release = threading.Event()
        self._tasks = [asyncio.create_task(self._traces.run(lambda: release.wait(20))) for _ in range(1)]
        await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        self._release.set()
        await asyncio.gather(*self._tasks)


def test_a_busy_service_says_so_and_still_predicts(served: Served) -> None:
    path = "/v1/models/words/gates"
    body: dict[str, Any] = {"inputs": {"token_ids": [5, 6]}}

    async def scenario() -> None:
        async with BusyTraces(served):
            busy = await served.client.arequest("POST", path, json={**body, "fail_if_busy": True})
            assert (busy.status_code, busy.json()["type"]) == (429, "urn:ddl:problem:busy")
            assert int(busy.headers["retry-after"]) >= 1
            waiting = [asyncio.create_task(served.client.arequest("POST", path, json=body)) for _ in range(8)]
            late = asyncio.create_task(served.client.arequest("POST", path, json={**body, "deadline_ms": 1}))
            waiting[-1].cancel()
            full = served.client.state.traces
            await until(lambda: full.waiting == full.queue_limit)
            refused = await served.client.arequest("POST", path, json=body)
            assert refused.status_code == 429
            meta = await served.client.arequest("GET", path + "/meta")
            assert meta.status_code == 200
            model = served.client.state.repository.get("words")
            feed = {"input_ids": np.array([[5, 6]])}
            answer = await model.batcher.run(feed, ["logits"])
            assert answer["logits"].shape == (1, 2, 270)
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [r.status_code for r in done if not isinstance(r, BaseException)] == [200] * 7
        expired = await late
        assert (expired.status_code, expired.json()["type"]) == (504, "urn:ddl:problem:deadline-passed")

    served.client.run(scenario())


def test_gates_along_with_generated_tokens_are_those_of_the_whole_text(served: Served) -> None:
    model = served.client.state.repository.get("words")
    prompt = tokens_of(served)[:12]
    frames = Frames.plan(model.manifest, GatesField(quantities="page", prompt="full"))

    async def generate() -> list[Any]:
        wanted = GenerateRequest(
            tuple(prompt),
            sampling=SamplingParams(temperature=0.0),
            max_tokens=6,
            gates=frames.outputs,
            prompt_gates=frames.whole_prompt,
        )
        async with model.language.engine.submit(wanted) as stream:
            return [event async for event in stream]

    events = served.client.run(generate())
    tokens = [event.token for event in events if event.token is not None]
    rows = [event.gates for event in events if event.gates is not None]
    first = frames.prefill(rows[0].first, rows[0].values)
    assert first is not None
    streamed = [frames.token(row.first, row.values) for row in rows]
    text = [*prompt, *tokens[:-1]]
    names = frames.meta(prompt, [])["quantities"]
    assert names == ["beta", "eigenvalue", "e_pre_norm", "e_post_norm", "erase_norm", "write_norm"]
    whole = arrays(served.ask("words", {"token_ids": text}, quantities=names)["results"][0])
    for name in names:
        np.testing.assert_allclose(first["tensors"][name]["data"], whole[name][:, : len(prompt)], atol=5e-5)
        along = np.stack([frame[name] for frame in streamed if frame is not None], 1)
        np.testing.assert_allclose(along, whole[name][:, len(prompt) - 1 :], atol=5e-5, err_msg=name)
        np.testing.assert_allclose(frames.summary()["mean"][name], along.mean(1), atol=1e-5)
