"""Reading a state is compress and norm, alone or in one with the rewrite; overrides are interventions in numbers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddl_model import delta
from ddl_model.compress_op import (
    ReadingArguments,
    compress,
    compress_norm,
    delta_rewrite_compress_norm,
    token_compress,
)
from ddl_model.delta_op import NO_OVERRIDE, RewriteArguments, RewriteOptions, delta_rewrite
from ddl_model.interventions import Intervention
from ddl_model.observe import Observer


def numbers(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def rewrite_arguments(b: int = 2, t: int = 5, d: int = 6, dv: int = 3, g: int = 4, u: int = 5) -> RewriteArguments:
    shapes = [(b, t, d, dv), (b, t, d), (b, t, g), (b, t, u), (1, g), (1,), (dv, u), (dv,)]
    return RewriteArguments(*(numbers(*shape, seed=i) for i, shape in enumerate(shapes)))


def reading(taps: int | None, b: int = 2, d: int = 6, dv: int = 3) -> ReadingArguments:
    if taps is None:
        return ReadingArguments(numbers(d, dv), numbers(d), 1e-3)
    return ReadingArguments(numbers(d, dv, taps), numbers(d), 1e-3, numbers(b, taps - 1, d, dv))


def test_compress_weighs_rows_and_channels() -> None:
    state, weight = numbers(4, 6, 3), numbers(6, 3)
    torch.testing.assert_close(compress(state, weight), torch.einsum("tij,ij->ti", state, weight))


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_token_compress_sums_over_taps_and_looks_into_the_history(taps: int) -> None:
    state, arguments = numbers(2, 5, 6, 3), reading(taps)
    assert arguments.history is not None
    window = torch.cat([arguments.history, state], 1)
    expected = torch.zeros(2, 5, 6, dtype=torch.float64)
    for token in range(5):
        for tap in range(taps):
            expected[:, token] += torch.einsum("bij,ij->bi", window[:, token + tap], arguments.weight[..., tap])
    torch.testing.assert_close(token_compress(state, arguments.history, arguments.weight), expected)


@pytest.mark.parametrize("taps", [None, 3])
def test_the_context_is_the_compressed_state_over_its_root_mean_square(taps: int | None) -> None:
    arguments = reading(taps)
    compressed, context = compress_norm(numbers(2, 5, 6, 3), arguments)
    scale = (compressed.square().mean(-1, keepdim=True) + arguments.norm_eps).sqrt()
    torch.testing.assert_close(context, compressed / scale * arguments.norm_weight)


@pytest.mark.parametrize("taps", [None, 1, 3])
@pytest.mark.parametrize("options", [RewriteOptions(0.1), RewriteOptions(0.1, 4.0), RewriteOptions(0.1, 0.0, False)])
def test_in_one_operator_with_the_rewrite_it_is_the_same(taps: int | None, options: RewriteOptions) -> None:
    arguments, following = rewrite_arguments(), reading(taps)
    rewrite, read = delta_rewrite_compress_norm(arguments, following, options)
    alone = delta_rewrite(arguments, options)
    torch.testing.assert_close(rewrite, alone)
    torch.testing.assert_close(read, compress_norm(alone.new_state, following))


def test_without_erasing_the_rewrite_writes() -> None:
    arguments = rewrite_arguments()
    out = delta_rewrite(arguments, RewriteOptions(0.1, erases=False))
    k = delta.unit_direction(arguments.direction, 0.1).k
    torch.testing.assert_close(out.new_state, delta.write(arguments.state, k, out.target, out.beta))


OVERRIDES: dict[str, tuple[Intervention, tuple[float, ...]]] = {
    "set": (Intervention("set", 0.3), (0.0, 0.3, 0.0, 2.0, 1.0, 1.0)),
    "scale": (Intervention("scale", 3.0), (3.0, 0.0, 0.0, 2.0, 1.0, 1.0)),
    "scale to nothing": (Intervention("scale", 0.0), (0.0, 0.0, 0.0, 2.0, 1.0, 1.0)),
    "clamp": (Intervention("clamp", low=0.7, high=1.1), (1.0, 0.0, 0.7, 1.1, 1.0, 1.0)),
    "drop_erase": (Intervention("drop_erase"), (1.0, 0.0, 0.0, 2.0, 0.0, 1.0)),
    "drop_write": (Intervention("drop_write"), (1.0, 0.0, 0.0, 2.0, 1.0, 0.0)),
}


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("spread", [lambda row: row, lambda row: row.expand(2, 5, 6)], ids=["once", "per token"])
def test_an_override_is_an_intervention_in_numbers(name: str, spread: Callable[[Tensor], Tensor]) -> None:
    intervention, row = OVERRIDES[name]
    arguments, options = rewrite_arguments(), RewriteOptions(0.1)
    out = delta_rewrite(arguments, options, spread(torch.tensor(row, dtype=torch.float64)))
    change = Observer([intervention]).change("0.attn", delta_rewrite(arguments, options).beta)
    assert change is not None
    k = delta.unit_direction(arguments.direction, 0.1).k
    written = torch.where(change.writes.unsqueeze(-1), out.target, 0.0)
    erased = torch.where(change.erases.unsqueeze(-1), out.readout, 0.0)
    torch.testing.assert_close(out.beta, change.beta)
    torch.testing.assert_close(out.new_state, delta.write(arguments.state, k, written - erased, change.beta))


def test_the_override_that_changes_nothing_changes_nothing() -> None:
    arguments = rewrite_arguments()
    plain = delta_rewrite(arguments, RewriteOptions(0.1))
    out = delta_rewrite(arguments, RewriteOptions(0.1), torch.tensor(NO_OVERRIDE, dtype=torch.float64))
    torch.testing.assert_close(out, plain, atol=0, rtol=1e-15)


def test_a_gate_that_is_no_number_can_be_set_but_not_cut() -> None:
    arguments = rewrite_arguments()._replace(gate_bias=torch.tensor([torch.nan], dtype=torch.float64))
    rows = {name: torch.tensor(row, dtype=torch.float64) for name, (_, row) in OVERRIDES.items()}
    assert bool(torch.isnan(delta_rewrite(arguments, RewriteOptions(0.1), rows["clamp"]).beta).all())
    out = delta_rewrite(arguments, RewriteOptions(0.1), rows["set"])
    assert bool((out.beta == 0.3).all())
    assert bool(torch.isfinite(out.new_state).all())


@pytest.mark.parametrize("taps", [None, 3])
def test_gradients_of_every_argument_are_right(taps: int | None) -> None:
    arguments, following = rewrite_arguments(1, 3, 3, 2), reading(taps, 1, 3, 2)
    history = () if following.history is None else (following.history,)
    values = [v.requires_grad_() for v in (*arguments, following.weight, following.norm_weight, *history)]

    def outputs(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, norm_weight, *history = values[8:]
        read = ReadingArguments(weight, norm_weight, 1e-3, *history)
        rewrite, seen = delta_rewrite_compress_norm(RewriteArguments(*values[:8]), read, RewriteOptions(0.1, 2.0))
        return rewrite.new_state, *seen

    assert torch.autograd.gradcheck(outputs, values)


@given(dtype=st.sampled_from([torch.float16, torch.bfloat16]), tokens=st.integers(0, 3))
def test_half_precision_is_rounded_once(dtype: torch.dtype, tokens: int) -> None:
    halves = [value.to(dtype) for value in rewrite_arguments(1, tokens)]
    following = reading(None)
    weights = following._replace(weight=following.weight.to(dtype), norm_weight=following.norm_weight.to(dtype))
    rewrite, _ = delta_rewrite_compress_norm(RewriteArguments(*halves), weights, RewriteOptions(1e-5))
    exact, _ = delta_rewrite_compress_norm(
        RewriteArguments(*(value.float() for value in halves)),
        following._replace(weight=weights.weight.float(), norm_weight=weights.norm_weight.float()),
        RewriteOptions(1e-5),
    )
    assert rewrite.beta.dtype == torch.float32
    torch.testing.assert_close(rewrite.beta, exact.beta)
    torch.testing.assert_close(rewrite.new_state, exact.new_state.to(dtype), atol=0, rtol=0)
