import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import ResultTooLarge
from service.protocol.call import InferCall, OutputWish
from service.protocol.classification import best_classes
from service.protocol.encode import encode
from tests.service.protocol.requests import LIMITS, NUMPY, read_answer, view

MODEL = view(
    {"x": ("FP32", (-1, 4))},
    {"scores": ("FP32", (-1, 3)), "half": ("FP16", (-1, 2)), "counts": ("INT64", (-1,)), "plain": ("FP32", (-1, 5))},
)


def answered(arrays: dict[str, np.ndarray], *wishes: OutputWish, **members: Any) -> tuple[Any, Any, Any]:
    encoded = encode(MODEL, InferCall({}, 1, wishes, **members), arrays, LIMITS)
    return (*read_answer(encoded.body, encoded.header_length), encoded)


@st.composite
def outputs(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], list[OutputWish]]:
    rows = draw(st.integers(1, 4))
    arrays, wishes = {}, []
    for name in draw(st.lists(st.sampled_from(sorted(MODEL.outputs)), min_size=1, unique=True)):
        known = MODEL.outputs[name]
        arrays[name] = draw(hnp.arrays(NUMPY[known.datatype], (rows, *known.shape[1:])))
        wishes.append(OutputWish(name, binary=draw(st.booleans())))
    return arrays, wishes


@given(outputs())
def test_what_the_graph_gave_arrives_bit_by_bit(drawn: Any) -> None:
    arrays, wishes = drawn
    answer, found, encoded = answered(arrays, *wishes)
    assert [output["name"] for output in answer["outputs"]] == [wish.name for wish in wishes]
    assert (answer["model_name"], answer["model_version"]) == ("m", "3")
    assert "id" not in answer
    assert (encoded.content_type == b"application/octet-stream") == any(wish.binary for wish in wishes)
    assert (encoded.header_length is None) == (not any(wish.binary for wish in wishes))
    for wish, output in zip(wishes, answer["outputs"], strict=True):
        array = arrays[wish.name]
        assert output["shape"] == list(array.shape)
        assert output["datatype"] == MODEL.outputs[wish.name].datatype
        if wish.binary:
            assert found[wish.name].tobytes() == array.tobytes()
            continue
        finite = np.isfinite(array).ravel()
        assert output.get("parameters", {}).get("nonfinite", 0) == (~finite).sum()
        assert [number is not None for number in output["data"]] == finite.tolist()
        numbers = [0 if number is None else number for number in output["data"]]
        back = np.array(numbers, np.int64 if array.dtype == np.int64 else np.float64).astype(array.dtype)
        assert back.tobytes() == np.where(finite, array.ravel(), 0).astype(array.dtype).tobytes()


def test_the_answer_is_valid_json_whatever_the_graph_gave() -> None:
    arrays = {"scores": np.array([[np.nan, np.inf, -np.inf]], np.float32), "counts": np.array([1])}
    wishes = (OutputWish("scores"), OutputWish("counts"))
    encoded = encode(MODEL, InferCall({}, 1, wishes, id="null"), arrays, LIMITS)
    answer = json.loads(encoded.body, parse_constant=pytest.fail)
    assert answer["outputs"][0]["data"] == [None] * 3
    assert answer["outputs"][0]["parameters"] == {"nonfinite": 3}
    assert "parameters" not in answer["outputs"][1]
    assert answer["id"] == "null"


def test_an_array_that_is_a_slice_of_a_batch() -> None:
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)
    for array in (batch[1:3], batch[::2], np.asfortranarray(batch)):
        for binary in (False, True):
            _, found, _ = answered({"scores": array}, OutputWish("scores", binary))
            assert np.array_equal(np.array(found["scores"]).reshape(array.shape), array)


SCORES = np.array([[0.1, 3.5, -2.0], [7.0, 7.0, np.nan]], np.float32)


@pytest.mark.parametrize("binary", [False, True])
def test_classes(binary: bool) -> None:
    answer, found, _ = answered({"scores": SCORES}, OutputWish("scores", binary, classes=2))
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert found["scores"] == ["3.5:1:dog", "0.1:0:cat", "7.0:0:cat", "7.0:1:dog"]


def test_more_classes_than_there_are_give_all() -> None:
    answer, found, _ = answered({"scores": SCORES}, OutputWish("scores", classes=99))
    assert answer["outputs"][0]["shape"] == [2, 3]
    assert found["scores"][5] == "nan:2:eel"


def test_classes_of_integers_and_without_labels() -> None:
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert best_classes(np.array([[0, low, high, high]]), 4, ()) == [[f"{high}:2", f"{high}:3", "0:0", f"{low}:1"]]


def test_an_answer_with_too_many_numbers_as_json() -> None:
    arrays = {"plain": np.zeros((2001, 5), np.float32)}
    with pytest.raises(ResultTooLarge) as caught:
        answered(arrays, OutputWish("plain"))
    assert caught.value.details == {"cells": 10_005, "limit_cells": 10_000}
    _, found, _ = answered(arrays, OutputWish("plain", binary=True))
    assert found["plain"].shape == (2001, 5)
