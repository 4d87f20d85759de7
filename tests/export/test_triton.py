"""The Triton kernels give the values and the gradients of the plain formula, which is computed in float64."""

import logging
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ddl_model.delta_op import NO_OVERRIDE, RewriteOptions, delta_rewrite
from tests.export.triton_cases import (
    DEVICE,
    Case,
    Values,
    arguments_of,
    assert_close,
    draw,
    exactly,
    needs_triton,
    only_read,
    only_rewrite,
    rewrite_and_read,
    solve,
)

pytestmark = needs_triton

FLOAT32 = 5e-6  # sums of up to 768 products and a normalisation, in another order
OPTIONS = {
    "erase": RewriteOptions(1e-5),
    "squash": RewriteOptions(0.1, 4.0),
    "write only": RewriteOptions(1e-5, 0.0, False),
}


@pytest.fixture(scope="module")
def package() -> ModuleType:
    from export.kernels import triton

    return triton


@pytest.fixture(autouse=True)
def _enabled(package: ModuleType) -> Iterator[None]:
    assert package.enable(), "Triton was imported before TRITON_INTERPRET=1 was set"
    yield
    package.disable()


def on_device(values: Values) -> Values:
    return {name: value.to(DEVICE) for name, value in values.items()}


CASES = [
    (Case(1, 3, 1, 1), "erase"),
    (Case(2, 3, 7, 2), "erase"),
    (Case(2, 3, 33, 3, target=5), "squash"),
    (Case(1, 43, 5, 4), "squash"),  # several chunks of tokens in both kernels
    (Case(1, 2, 100, 5, gate=3, target=9), "write only"),
    (Case(1, 2, 6, 6), "erase"),
    (Case(1, 2, 33, 7, target=33), "squash"),
    (Case(1, 2, 9, 8), "erase"),
    (Case(1, 2, 768, 4), "squash"),
    (Case(2, 3, 7, 3, taps=1), "erase"),
    (Case(2, 3, 33, 1, taps=2), "squash"),
    (Case(2, 2, 6, 2, taps=3, target=4), "write only"),  # rows that are shorter than the reach
    (Case(2, 19, 5, 3, taps=4), "erase"),
]


@pytest.mark.parametrize(("case", "options"), CASES, ids=str)
def test_values_and_gradients(case: Case, options: str) -> None:
    values = draw(case)
    outputs, gradients = solve(rewrite_and_read, on_device(values), OPTIONS[options])
    exact_outputs, exact_gradients = solve(rewrite_and_read, exactly(values), OPTIONS[options])
    assert_close(outputs, exact_outputs, FLOAT32)
    assert_close(gradients, exact_gradients, FLOAT32)
    assert gradients.keys() == values.keys()


@pytest.mark.parametrize("operator", [only_rewrite, only_read])
@pytest.mark.parametrize("taps", [None, 3])
def test_each_half_alone(operator: object, taps: int | None) -> None:
    values = draw(Case(2, 4, 7, 3, taps))
    outputs, gradients = solve(operator, on_device(values), OPTIONS["erase"])  # type: ignore[arg-type]
    exact_outputs, exact_gradients = solve(operator, exactly(values), OPTIONS["erase"])  # type: ignore[arg-type]
    assert_close(outputs, exact_outputs, FLOAT32)
    assert_close(gradients, exact_gradients, FLOAT32)


@pytest.mark.parametrize("used", ["new_state", "compressed", "context", "beta", "readout", "direction_norm"])
def test_any_output_may_be_the_only_one_that_is_used(used: str) -> None:
    values = draw(Case(1, 3, 7, 3))
    _, gradients = solve(rewrite_and_read, on_device(values), OPTIONS["squash"], [used])
    _, expected = solve(rewrite_and_read, exactly(values), OPTIONS["squash"], [used])
    # Where the plain formula has no path to an argument, a gradient of zeros is as good as none.
    missing = {name: torch.zeros_like(exactly(values)[name]) for name in gradients.keys() - expected.keys()}
    assert_close(gradients, {**expected, **missing}, FLOAT32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("taps", [None, 2])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype, taps: int | None) -> None:
    values = draw(Case(1, 4, 33, 4, taps), dtype)
    outputs, gradients = solve(rewrite_and_read, on_device(values), OPTIONS["squash"])
    exact_outputs, exact_gradients = solve(rewrite_and_read, exactly(values), OPTIONS["squash"])
    assert {name for name, value in outputs.items() if value.dtype == dtype} == {"new_state", "compressed", "context"}
    assert all(gradient.dtype == dtype for gradient in gradients.values())
    # Rounded once: to the nearest, but the interpreter cuts bfloat16 off.
    once = torch.finfo(dtype).eps / (1 if (DEVICE, dtype) == ("cpu", torch.bfloat16) else 2) + FLOAT32
    assert_close(outputs, exact_outputs, once)
    # With taps the backward starts from the compressed state as it was rounded.
    assert_close(gradients, exact_gradients, once if taps is None else 3 * once)


def test_types_may_differ_as_under_autocast() -> None:
    values = draw(Case(1, 3, 12, 4))
    for name in ("state", "context"):
        values[name] = values[name].bfloat16()
    outputs, gradients = solve(rewrite_and_read, on_device(values), OPTIONS["erase"])
    exact_outputs, exact_gradients = solve(rewrite_and_read, exactly(values), OPTIONS["erase"])
    assert {name: gradient.dtype for name, gradient in gradients.items()} == {n: v.dtype for n, v in values.items()}
    assert_close({"beta": outputs["beta"]}, {"beta": exact_outputs["beta"]}, FLOAT32)
    assert_close(outputs, exact_outputs, 2**-7)
    assert_close(gradients, exact_gradients, 2**-7)


@pytest.mark.parametrize("length", [0.0, 1e-20, 1e-5, 1e16])
def test_directions_of_any_length(length: float) -> None:
    values = draw(Case(1, 2, 33, 2))
    values["direction"][0, 1] *= length
    # The length of h = 0 has no gradient; the plain formula's is not a number.
    used = ["new_state", "context", "readout"]
    outputs, gradients = solve(rewrite_and_read, on_device(values), OPTIONS["erase"], used)
    exact_outputs, exact_gradients = solve(rewrite_and_read, exactly(values), OPTIONS["erase"], used)
    exact_outputs["direction_norm"] /= max(1.0, length)
    assert_close({**outputs, "direction_norm": outputs["direction_norm"] / max(1.0, length)}, exact_outputs, FLOAT32)
    # Gradients of directions are as long as directions are short.
    scale = 1.0 / max(length, 1e-5)
    for found in (gradients, exact_gradients):
        found["direction"] = torch.stack([found["direction"][0, 0], found["direction"][0, 1] / scale])
    assert_close(gradients, exact_gradients, FLOAT32)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # the interpreter computes with NumPy
def test_a_direction_that_overflows_changes_nothing_and_has_no_gradient() -> None:
    values = draw(Case(1, 2, 5, 2))
    values["direction"][0, 1] = 1e25
    outputs, gradients = solve(only_rewrite, on_device(values), OPTIONS["erase"], ["new_state"])
    torch.testing.assert_close(outputs["new_state"][0, 1].cpu(), values["state"][0, 1], atol=0, rtol=0)
    assert bool((gradients["direction"][0, 1] == 0).all())
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())


@pytest.mark.parametrize("taps", [None, 3])
def test_no_tokens(taps: int | None) -> None:
    values = draw(Case(2, 0, 6, 2, taps))
    outputs, gradients = solve(rewrite_and_read, on_device(values), OPTIONS["erase"])
    assert outputs["new_state"].shape == (2, 0, 6, 2)
    assert outputs["context"].shape == (2, 0, 6)
    assert gradients.keys() == values.keys()
    assert all(not gradient.any() for gradient in gradients.values())


def test_tensors_may_lie_anyhow_in_memory() -> None:
    values = draw(Case(2, 3, 7, 3))
    crossed = {name: value.mT.contiguous().mT if value.ndim > 1 else value for name, value in values.items()}
    outputs, _ = solve(rewrite_and_read, on_device(values), OPTIONS["erase"])
    again, _ = solve(rewrite_and_read, on_device(crossed), OPTIONS["erase"])
    assert_close(again, exactly(outputs), 0.0)


def test_equal_inputs_give_equal_bits() -> None:
    values = on_device(draw(Case(1, 40, 6, 2)))
    first, second = (solve(rewrite_and_read, values, OPTIONS["squash"])[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_frozen_weights_get_no_gradient() -> None:
    values = on_device(draw(Case(1, 2, 5, 2)))
    values["state"].requires_grad_()
    outputs = rewrite_and_read(values, OPTIONS["erase"])
    outputs["context"].sum().backward()
    assert [name for name, value in values.items() if value.grad is not None] == ["state"]


def plain(values: Values, override: Tensor | None) -> Tensor:
    return delta_rewrite(arguments_of(values), OPTIONS["erase"], override).new_state


UNSUPPORTED = {
    "gates are overridden": (draw(Case(1, 2, 5, 2)), torch.tensor(NO_OVERRIDE)),
    "state is torch.float64": (draw(Case(1, 2, 5, 2), torch.float64), None),
    "a state of 300 x 64 has more than 16384 cells": (draw(Case(1, 2, 300, 64)), None),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_what_kernels_cannot_do_is_left_to_the_plain_formula_and_said_once(
    reason: str, package: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    from export.kernels.triton import register

    register._tell.cache_clear()
    values, override = UNSUPPORTED[reason]
    values = on_device(values)
    override = None if override is None else override.to(DEVICE)
    with caplog.at_level(logging.WARNING):
        results = [plain(values, override) for _ in range(2)]
    assert [record.getMessage() for record in caplog.records] == [
        f"ddl::delta_rewrite runs as the plain formula: {reason}"
    ]
    package.disable()
    assert torch.equal(results[0], plain(values, override))


def test_too_many_taps_are_left_to_the_plain_formula(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        solve(only_read, on_device(draw(Case(1, 2, 5, 2, taps=5))), OPTIONS["erase"])
    assert "token_compress_norm runs as the plain formula: 5 taps are more than 4" in caplog.text


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a card")
def test_without_card_and_interpreter_nothing_is_enabled(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from export.kernels.triton import device

    package.disable()
    monkeypatch.setattr(device, "interpreted", lambda: False)
    assert not package.enable()
    assert "there is no NVIDIA card" in caplog.text
