import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import InvalidFields, InvalidRequest, InvalidTensor, ServiceError
from service.protocol import fast_json
from service.protocol.call import InferCall, Limits, OutputWish
from service.protocol.decode import decode, read_header_length
from service.protocol.plans import Plans
from service.protocol.view import ModelView
from tests.service.protocol.requests import (
    FIXED,
    LIMITS,
    NUMPY,
    ONE,
    TOKENS,
    TWO,
    binary_tensor,
    body_of,
    tensor,
    view,
)

X = np.arange(8, dtype=np.float32).reshape(2, 4) / 3
N = np.array([2**63 - 1, -(2**63)])


def decoded(request: Any, model: ModelView = ONE, *arrays: Any) -> InferCall:
    body, header = body_of(request, *arrays)
    return decode(body, header if arrays else None, model, LIMITS)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@st.composite
def feeds(draw: st.DrawFn) -> tuple[ModelView, dict[str, np.ndarray]]:
    """Draw a model and arrays that fit it: any datatype, one to three inputs, axes fixed and free."""
    rows = draw(st.integers(1, 5))
    shapes, arrays = {}, {}
    for index in range(draw(st.integers(1, 3))):
        datatype = draw(st.sampled_from(["FP32", "FP16", "INT64"]))
        lengths = draw(st.lists(st.integers(1, 4), max_size=3))
        free = [draw(st.booleans()) for _ in lengths]
        name = f"input{index}"
        shapes[name] = (datatype, (-1, *(-1 if f else n for f, n in zip(free, lengths, strict=True))))
        elements = None if datatype == "INT64" else {"allow_nan": False, "allow_infinity": False}
        arrays[name] = draw(hnp.arrays(NUMPY[datatype], (rows, *lengths), elements=elements))
    return view(shapes), arrays


@given(feeds(), st.data())
def test_what_was_sent_arrives_bit_by_bit_however_it_was_sent(drawn: Any, data: st.DataObject) -> None:
    model, arrays = drawn
    inputs, behind = [], []
    for name in data.draw(st.permutations(sorted(arrays))):
        array, datatype = arrays[name], model.inputs[name].datatype
        way = data.draw(st.sampled_from(["flat", "nested", "binary"]))
        if way == "binary":
            inputs.append(binary_tensor(name, array, datatype))
            behind.append(array)
        else:
            numbers = array.tolist() if way == "nested" else array.ravel().tolist()
            inputs.append(tensor(name, array, datatype, data=numbers))
    call = decoded({"inputs": inputs}, model, *behind)
    assert call.feeds.keys() == arrays.keys()
    assert all(same(call.feeds[name], array) for name, array in arrays.items())
    assert call.rows == len(arrays["input0"])
    assert all(array.flags.aligned and array.flags.c_contiguous for array in call.feeds.values())


@pytest.mark.parametrize("padding", range(9))
def test_binary_data_at_any_offset_is_aligned(padding: int) -> None:
    request = {"id": "i" * padding, "inputs": [binary_tensor("x", X, "FP32"), binary_tensor("n", N, "INT64")]}
    call = decoded(request, TWO, X, N)
    assert same(call.feeds["x"], X)
    assert same(call.feeds["n"], N)
    assert call.feeds["n"].flags.aligned


def test_binary_data_may_hold_what_json_cannot() -> None:
    strange = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    assert same(decoded({"inputs": [binary_tensor("x", strange, "FP32")]}, ONE, strange).feeds["x"], strange)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: Any) -> None:
    body, header = body_of({"inputs": [binary_tensor("x", X, "FP32")]}, X)
    assert same(decode(kind(body), header, ONE, LIMITS).feeds["x"], X)
    body, _ = body_of({"inputs": [tensor("x", X, "FP32")]})
    assert same(decode(kind(body), None, ONE, LIMITS).feeds["x"], X)


def test_members() -> None:
    call = decoded(
        {
            "id": "mine",
            "model_name": "said twice",
            "model_version": None,
            "parameters": {"priority": 2, "timeout": 1500, "custom": "kept", "sequence_id": 0, "sequence_start": False},
            "inputs": [tensor("x", X, "FP32", parameters={"note": 1})],
            "outputs": [{"name": "scores", "parameters": {"classification": 2, "binary_data": True}}],
        }
    )
    assert (call.id, call.priority, call.timeout_seconds, call.rows) == ("mine", 2, 0.0015, 2)
    assert call.parameters["custom"] == "kept"
    assert call.outputs == (OutputWish("scores", binary=True, classes=2),)
    assert call.names == ("scores",)


def test_without_members_the_models_defaults_hold() -> None:
    call = decoded({"inputs": [tensor("x", X, "FP32")]})
    assert (call.id, call.priority, call.timeout_seconds, call.parameters) == (None, 0, None, {})
    assert call.outputs == ONE.default_outputs
    assert decoded({"inputs": [tensor("x", X, "FP32")], "parameters": {"timeout": 0}}).timeout_seconds is None


@pytest.mark.parametrize(("overall", "own", "binary"), [(True, None, True), (True, False, False), (False, True, True)])
def test_an_output_overrides_what_holds_for_all(overall: bool, own: bool | None, binary: bool) -> None:
    output: dict[str, Any] = (
        {"name": "scores"} if own is None else {"name": "scores", "parameters": {"binary_data": own}}
    )
    request = {"inputs": [tensor("x", X, "FP32")], "parameters": {"binary_data_output": overall}, "outputs": [output]}
    assert decoded(request).outputs == (OutputWish("scores", binary),)


def test_all_default_outputs_as_binary_data() -> None:
    request = {"inputs": [tensor("x", X, "FP32")], "parameters": {"binary_data_output": True}}
    assert decoded(request).outputs == (OutputWish("scores", binary=True),)


def test_the_data_of_the_only_input_may_come_alone() -> None:
    call = decode(X.tobytes(), 0, ONE, LIMITS)
    assert same(call.feeds["x"], X)
    assert (call.rows, call.outputs) == (2, ONE.default_outputs_binary)
    fixed = np.arange(6, dtype=np.float16).reshape(2, 3)
    call = decode(fixed.tobytes(), 0, FIXED, LIMITS)
    assert same(call.feeds["x"], fixed)
    assert call.rows == 1


@pytest.mark.parametrize(
    ("model", "body", "error", "message"),
    [
        (ONE, b"", InvalidTensor, "needs a multiple of 16 bytes, the body has 0"),
        (ONE, b"x" * 17, InvalidTensor, "needs a multiple of 16 bytes, the body has 17"),
        (ONE, b"x" * 16 * 65, InvalidTensor, "has 65 rows, 64 are allowed"),
        (FIXED, b"x" * 24, InvalidTensor, "needs a multiple of 12 bytes"),
        (TWO, b"x" * 16, InvalidRequest, "a model needs one input, this one has 2"),
        (TOKENS, b"x" * 16, InvalidRequest, "do not tell the shape of 'tokens'"),
    ],
)
def test_data_alone_that_does_not_fit(model: ModelView, body: bytes, error: type[ServiceError], message: str) -> None:
    with pytest.raises(error, match=message):
        decode(body, 0, model, LIMITS)


def test_tokens_have_two_free_axes() -> None:
    tokens = np.arange(6).reshape(2, 3)
    assert same(decoded({"inputs": [tensor("tokens", tokens, "INT64")]}, TOKENS).feeds["tokens"], tokens)


HUGE = [2**40, 2**40]


@pytest.mark.parametrize("shape", [HUGE, [2**63, 1], [1, 2**63], [1, 2**200], [64, 2**61], [2**32, 2**32]])
@pytest.mark.parametrize("as_binary", [False, True])
def test_absurd_shapes_are_refused_before_anything_is_allocated(shape: list[int], as_binary: bool) -> None:
    data = np.zeros((1, 1), np.int64)
    make = binary_tensor if as_binary else tensor
    with pytest.raises((InvalidTensor, InvalidFields)):  # to JSON, what has more than 64 bits is no integer
        decoded({"inputs": [make("tokens", data, "INT64", shape=shape)]}, TOKENS, *([data] if as_binary else []))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parameters": {"binary_data_size": 31}}, InvalidTensor, r"has 31 bytes, FP32 of shape \[2, 4\] needs 32"),
        ({"parameters": {"binary_data_size": 33}}, InvalidTensor, "has 33 bytes"),
        ({"parameters": {"binary_data_size": -32}}, InvalidFields, "inputs.0.parameters.binary_data_size"),
        ({"parameters": {"binary_data_size": 2**64}}, InvalidFields, "inputs.0.parameters.binary_data_size"),
        ({"parameters": {"binary_data_size": "32"}}, InvalidFields, "an integer is needed"),
        ({"parameters": {"binary_data_size": 32.0}}, InvalidFields, "an integer is needed"),
        ({"parameters": {"binary_data_size": True}}, InvalidFields, "an integer is needed"),
        ({"data": []}, InvalidFields, "inputs.0.data: the tensor comes as binary data"),
        (
            {"shape": [4, 4], "parameters": {"binary_data_size": 64}},
            InvalidRequest,
            "should have 64 bytes .* 32 are left",
        ),
        ({"shape": [1, 4], "parameters": {"binary_data_size": 16}}, InvalidRequest, "16 bytes behind the last tensor"),
        ({"parameters": {"shared_memory_region": "r"}}, InvalidFields, "memory is not shared with clients"),
    ],
)
def test_sizes_of_binary_data_that_contradict(change: dict[str, Any], error: type[ServiceError], message: str) -> None:
    with pytest.raises(error, match=message):
        decoded({"inputs": [binary_tensor("x", X, "FP32", **change)]}, ONE, X)


def test_lengths_of_the_json_that_contradict() -> None:
    body, header = body_of({"inputs": [binary_tensor("x", X, "FP32")]}, X)
    for length in (header - 1, header + 1, 1, len(body)):
        with pytest.raises(InvalidRequest, match="not JSON"):
            decode(body, length, ONE, LIMITS)
    with pytest.raises(InvalidRequest, match=f"is {len(body) + 1}, but the body has only {len(body)} bytes"):
        decode(body, len(body) + 1, ONE, LIMITS)
    with pytest.raises(InvalidRequest, match="need the header Inference-Header-Content-Length"):
        decode(body[:header], None, ONE, LIMITS)
    with pytest.raises(InvalidRequest, match="should have 32 bytes behind the JSON, 0 are left"):
        decode(body[:header], header, ONE, LIMITS)
    with pytest.raises(InvalidRequest, match="1 bytes behind the last tensor"):
        decode(body + b"x", header, ONE, LIMITS)


@pytest.mark.parametrize(
    "value", ["", "-1", "+5", " 5", "5 ", "5_0", "0x5", "5.0", "1e3", "٥", "²", "9" * 13, b"-1", b"\xb2"]
)
def test_a_header_that_is_no_number_of_bytes(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be the length"):
        read_header_length(value)


@pytest.mark.parametrize(
    ("value", "length"), [(None, None), ("0", 0), (b"142", 142), ("007", 7), ("9" * 12, 10**12 - 1)]
)
def test_a_header_that_is_a_number_of_bytes(value: Any, length: int | None) -> None:
    assert read_header_length(value) == length


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"id": 7}, "id"),
        ({"id": "x" * 257}, "id"),
        ({"model_name": 7}, "model_name"),
        ({"parameters": []}, "parameters"),
        ({"parameters": {"a": {}}}, "parameters.a"),
        ({"parameters": {"priority": -1}}, "parameters.priority"),
        ({"parameters": {"priority": 1.0}}, "parameters.priority"),
        ({"parameters": {"priority": 2**32}}, "parameters.priority"),
        ({"parameters": {"timeout": -1}}, "parameters.timeout"),
        ({"parameters": {"timeout": True}}, "parameters.timeout"),
        ({"parameters": {"timeout": 10**12}}, "parameters.timeout"),
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"parameters": {"sequence_id": 5}}, "parameters.sequence_id"),
        ({"parameters": {"sequence_start": True}}, "parameters.sequence_id"),
        ({"outputs": []}, "outputs"),
        ({"outputs": {}}, "outputs"),
        ({"outputs": [7]}, "outputs.0"),
        ({"outputs": [{}]}, "outputs.0.name"),
        ({"outputs": [{"name": 7}]}, "outputs.0.name"),
        ({"outputs": [{"name": "scores", "nmae": 1}]}, "outputs.0.nmae"),
        ({"outputs": [{"name": "scores", "parameters": 7}]}, "outputs.0.parameters"),
        ({"outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]}, "outputs.0.parameters.binary_data"),
        (
            {"outputs": [{"name": "scores", "parameters": {"classification": -1}}]},
            "outputs.0.parameters.classification",
        ),
        (
            {"outputs": [{"name": "scores", "parameters": {"shared_memory_region": "r"}}]},
            "outputs.0.parameters.shared_memory_region",
        ),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_member_that_is_wrong_is_named(members: dict[str, Any], field: str) -> None:
    request = {"inputs": [tensor("x", X, "FP32")], **members}
    with pytest.raises(InvalidFields) as caught:
        decoded(request)
    assert caught.value.details["errors"][0]["field"] == field  # type: ignore[index]
    assert str(caught.value).startswith(field)


def test_tensors_that_contradict_each_other() -> None:
    x, n = tensor("x", X, "FP32"), tensor("n", N, "INT64")
    with pytest.raises(InvalidTensor, match="input 'n' is missing"):
        decoded({"inputs": [x]}, TWO)
    with pytest.raises(InvalidTensor, match="input 'x' is given twice"):
        decoded({"inputs": [x, n, x]}, TWO)
    with pytest.raises(InvalidTensor, match="different numbers of rows: 2, 3"):
        decoded({"inputs": [x, tensor("n", np.arange(3), "INT64")]}, TWO)
    with pytest.raises(InvalidTensor, match="output 'scores' is asked for twice"):
        decoded({"inputs": [x], "outputs": [{"name": "scores"}] * 2})
    with pytest.raises(InvalidTensor, match="no output 'y'; known: scores"):
        decoded({"inputs": [x], "outputs": [{"name": "y"}]})
    outputs = [{"name": "logits", "parameters": {"classification": 1}}]
    with pytest.raises(InvalidTensor, match="classes need"):
        decoded({"inputs": [tensor("tokens", N[:, None], "INT64")], "outputs": outputs}, TOKENS)


@pytest.mark.parametrize(
    ("datatype", "number", "message"),
    [
        ("INT64", 2**63, "outside the range of INT64"),
        ("INT64", 1.0, "element 0 is a fraction, not an integer"),
        ("INT64", True, "element 0 is a boolean"),
        ("FP16", 65520.0, "element 0 is not finite as FP16"),
        ("FP32", 3.5e38, "element 0 is not finite as FP32"),
        ("FP32", "1", "element 0 is a string"),
    ],
)
def test_numbers_that_a_datatype_does_not_have(datatype: Any, number: Any, message: str) -> None:
    model = view({"x": (datatype, (-1, 1))})
    request = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": datatype, "data": [number]}]}
    with pytest.raises(InvalidTensor, match=message):
        decoded(request, model)
    # Long bodies take the fast way first.
    wide = view({"x": (datatype, (-1, 200))})
    request["inputs"][0] |= {"shape": [1, 200], "data": [number] * 200}
    with pytest.raises(InvalidTensor, match=message):
        decoded(request, wide)


def test_the_usual_request_takes_the_fast_way() -> None:
    wide = view({"x": ("FP32", (-1, 100)), "n": ("INT64", (-1, 50))}, {"scores": ("FP32", (-1, 3))})
    arrays = {
        "x": np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32),
        "n": np.arange(100).reshape(2, 50),
    }
    inputs = [tensor("x", arrays["x"], "FP32"), tensor("n", arrays["n"], "INT64")]
    extras = {"id": "a", "parameters": {"priority": 1}, "outputs": [{"name": "scores"}], "model_name": "m"}
    for request in ({"inputs": inputs}, {"inputs": inputs[::-1], **extras}):
        call = fast_json.decode(json.dumps(request).encode(), wide, LIMITS)
        assert call is not None
        assert all(same(call.feeds[name], array) for name, array in arrays.items())
        assert call.rows == 2
    assert (call.id, call.priority) == ("a", 1)


scalars = st.sampled_from([0, -1, 1.5, -0.0, 2**53 + 1, 2**63, 2**64, 1e39, 65520.0, True, None, "x", [], {}])
strange_tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "n", "[", ""]) | scalars,
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 60, 64, 65, 2**40, True, 1.0]), max_size=3) | scalars,
        "datatype": st.sampled_from(["FP32", "INT64", "FP16", "BOOL"]) | scalars,
        "data": st.just([0.25] * 60)
        | st.just([3] * 60)
        | st.just([[1.5] * 60])
        | st.lists(scalars, max_size=60)
        | scalars,
        "parameters": st.just({}) | scalars,
    },
)
usual = st.just({"name": "x", "shape": [1, 60], "datatype": "FP32", "data": [0.5] * 60})
usual_n = st.just({"name": "n", "shape": [1, 60], "datatype": "INT64", "data": [7] * 60})
strange_request = st.fixed_dictionaries(
    {"inputs": st.lists(usual | usual_n | strange_tensor, max_size=3)},
    optional={
        "id": st.sampled_from(["a", "[", "x" * 300]) | scalars,
        "outputs": st.lists(st.sampled_from([{"name": "scores"}, {"name": "["}]), max_size=2) | scalars,
        "parameters": st.sampled_from([{}, {"priority": 1}, {"timeout": -1}, {"a": "["}]) | scalars,
        "model_name": scalars,
        "extra": scalars,
    },
)
WIDE = view({"x": ("FP32", (-1, 60)), "n": ("INT64", (-1, 60))})


def outcome(body: bytes, *, slowly: bool) -> Any:
    fast, small = fast_json.decode, fast_json._LEAST_BYTES
    fast_json._LEAST_BYTES = 1
    if slowly:
        fast_json.decode = lambda *_: None
    try:
        call = decode(body, None, WIDE, LIMITS)
        arrays = {name: (a.dtype, a.shape, a.tobytes()) for name, a in sorted(call.feeds.items())}
        return arrays, call.rows, call.outputs, call.id, call.priority, call.timeout_seconds, call.parameters
    except ServiceError as error:
        return type(error), str(error), error.details
    finally:
        fast_json.decode, fast_json._LEAST_BYTES = fast, small


@given(request=strange_request, doubled=st.booleans())
def test_the_fast_way_is_never_different(request: Any, doubled: bool) -> None:
    text = json.dumps(request)
    if doubled:  # a member twice: the last one holds
        text = text.replace('"name":', '"name": "n", "name":', 1)
    body = text.encode()
    assert outcome(body, slowly=False) == outcome(body, slowly=True)


@given(st.binary(max_size=400))
def test_the_fast_way_is_never_different_for_any_bytes(body: bytes) -> None:
    assert outcome(body, slowly=False) == outcome(body, slowly=True)


@pytest.mark.parametrize(
    "text", ['{"inputs": [], "inputs": []}', '\ufeff{"inputs": []}', '{"inputs": [], "id": "\\ud800"}']
)
def test_the_fast_way_is_never_different_for_strange_texts(text: str) -> None:
    body = text.encode()
    assert outcome(body, slowly=False) == outcome(body, slowly=True)


def seen(call: InferCall) -> Any:
    arrays = {name: (a.dtype, a.shape, a.tobytes(), a.flags.aligned) for name, a in call.feeds.items()}
    return arrays, call.rows, call.outputs, call.id, call.priority, call.timeout_seconds, call.parameters


@given(feeds(), st.data())
def test_a_header_that_comes_again_is_read_in_the_same_way(drawn: Any, data: st.DataObject) -> None:
    model, arrays = drawn
    inputs = [binary_tensor(name, array, model.inputs[name].datatype) for name, array in arrays.items()]
    extras = data.draw(st.sampled_from([{}, {"id": "a"}, {"parameters": {"priority": 2, "timeout": 7, "note": "x"}}]))
    body, header = body_of({"inputs": inputs, **extras}, *arrays.values())
    other = bytes(255 - byte for byte in body[header:])
    for numbers in (body[header:], other, body[header:]):
        fresh = dataclasses.replace(model, plans=Plans())
        whole = body[:header] + numbers
        assert seen(decode(whole, header, model, LIMITS)) == seen(decode(whole, header, fresh, LIMITS))
    for spoilt in (body[:-1], body + b"x"):
        with pytest.raises(InvalidRequest):
            decode(spoilt, header, model, LIMITS)
    with pytest.raises(InvalidTensor):
        decode(body, header, model, Limits(max_rows=0, json_cells=1))


def test_a_call_cannot_change_what_its_header_means() -> None:
    request = {"inputs": [binary_tensor("x", X, "FP32")], "parameters": {"note": "x"}}
    for _ in range(3):
        call = decoded(request, ONE, X)
        assert call.parameters == {"note": "x"}
        call.parameters["note"] = "changed"
        call.feeds.clear()


def test_the_headers_that_are_kept_are_bounded() -> None:
    model = view({"x": ("FP32", (-1, 4))})
    for index in range(500):
        decoded({"inputs": [binary_tensor("x", X, "FP32")], "parameters": {"note": index}}, model, X)
    long = {"inputs": [binary_tensor("x", X, "FP32")], "parameters": {"note": "x" * 5000}}
    decoded(long, model, X)
    assert 0 < sum(len(header) for header in model.plans._plans) < 64 * 1024


def test_a_parser_is_free_again_after_every_outcome() -> None:
    good = json.dumps({"inputs": [tensor("x", np.ones((1, 4), np.float32), "FP32")], "id": "i" * 250}).encode()
    for body in (good, good[:-1], good.replace(b"FP32", b"FP64"), good.replace(b'"data": [', b'"data": ["", ')):
        fast_json.decode(body, ONE, LIMITS)
        assert fast_json.decode(good, ONE, LIMITS) is not None
