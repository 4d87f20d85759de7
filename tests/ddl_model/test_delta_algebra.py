"""The paper's equations hold for random inputs, in float64."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddl_model import delta


class Case(NamedTuple):
    """One rewrite in float64: state, unit direction, target, gate."""

    state: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tokens, d, dv = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    raw = normal(tokens, d)
    k = raw / raw.norm(dim=-1, keepdim=True)
    beta = torch.tensor(draw(st.lists(st.floats(0, 2), min_size=tokens, max_size=tokens)), dtype=torch.float64)
    return Case(scale * normal(tokens, d, dv), k, scale * normal(tokens, dv), beta)


def close(a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
    reference = b if scale is None else scale
    return bool(((a - b).abs() <= 1e-12 * max(1.0, float(reference.abs().max()))).all())


@given(cases())
def test_rewrite_is_the_shortcut_matrix_plus_the_write(case: Case) -> None:
    matrix = delta.shortcut_matrix(case.k, case.beta)
    write = case.beta[:, None, None] * case.k.unsqueeze(-1) * case.v.unsqueeze(-2)
    assert close(delta.rewrite(*case), matrix @ case.state + write, case.state)  # Eq. 2.2


@given(cases())
def test_gate_zero_keeps_the_state_exactly(case: Case) -> None:
    assert torch.equal(delta.rewrite(case.state, case.k, case.v, torch.zeros_like(case.beta)), case.state)


@given(cases())
def test_gate_one_overwrites_the_readout_by_the_target(case: Case) -> None:
    after = delta.rewrite(case.state, case.k, case.v, torch.ones_like(case.beta))
    assert close(delta.readout(after, case.k), case.v, case.state)  # Eq. 2.3


@given(cases())
def test_gate_two_reflects(case: Case) -> None:
    after = delta.rewrite(case.state, case.k, case.v, torch.full_like(case.beta, 2.0))
    before = delta.discrepancy(case.state, case.k, case.v)
    assert close(delta.discrepancy(after, case.k, case.v), -before, case.state)
    twice = delta.apply_shortcut(
        delta.apply_shortcut(case.state, case.k, 2 * torch.ones_like(case.beta)), case.k, 2 * torch.ones_like(case.beta)
    )
    assert close(twice, case.state)


@given(cases())
def test_discrepancy_shrinks_by_one_minus_beta(case: Case) -> None:
    before = delta.discrepancy(case.state, case.k, case.v)
    after = delta.discrepancy(delta.rewrite(*case), case.k, case.v)
    assert close(after, (1 - case.beta).unsqueeze(-1) * before, case.state)  # Eq. 2.4


@given(cases())
def test_what_is_orthogonal_to_the_direction_is_untouched(case: Case) -> None:
    change = delta.rewrite(*case) - case.state
    along = case.k.unsqueeze(-1) * delta.readout(change, case.k).unsqueeze(-2)
    assert close(change, along, case.state)


@given(cases())
def test_spectrum_and_determinant_are_those_of_the_matrix(case: Case) -> None:
    matrix = delta.shortcut_matrix(case.k, case.beta)
    found = torch.linalg.eigvalsh(matrix)
    stated = delta.spectrum(case.k, case.beta).sort(dim=-1).values
    assert close(found, stated)  # Proposition 2.1
    assert close(torch.linalg.det(matrix), delta.determinant(case.beta))
    assert float(torch.linalg.matrix_norm(matrix, ord=2).max()) <= 1 + 1e-12


@given(cases(), st.floats(1e-6, 10.0))
def test_guarded_direction_is_shorter_and_shifts_the_eigenvalue(case: Case, eps: float) -> None:
    direction = delta.unit_direction(3.0 * case.k, eps)
    k_norm = 3.0 / math.sqrt(9.0 + eps**2)
    assert close(direction.k.norm(dim=-1), torch.full_like(case.beta, k_norm))
    assert close(direction.raw_norm, torch.full_like(case.beta, 3.0))
    found = torch.linalg.eigvalsh(delta.shortcut_matrix(direction.k, case.beta))
    stated = delta.spectrum(direction.k, case.beta).sort(dim=-1).values
    assert close(found, stated)
    assert close(stated[:, 0], delta.eigenvalue(case.beta, direction.k.norm(dim=-1)).clamp(max=1.0))


@given(cases())
def test_scalar_state_is_a_vector_form(case: Case) -> None:
    x, v = case.state[..., 0], case.v[..., :1]
    after = delta.rewrite(x.unsqueeze(-1), case.k, v, case.beta).squeeze(-1)
    along = (case.k * x).sum(-1, keepdim=True)
    assert close(after, x + case.beta.unsqueeze(-1) * (v - along) * case.k, case.state)


def test_a_zero_direction_changes_nothing() -> None:
    state = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    k = delta.unit_direction(torch.zeros(2, 4), 1e-5).k
    assert torch.equal(delta.rewrite(state, k, torch.ones(2, 3), torch.ones(2)), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    d = 4096  # a half-precision sum of this many terms stops growing long before its end
    state = torch.full((1, d, 1), 0.5, dtype=dtype)
    k = torch.full((1, d), d**-0.5, dtype=dtype)
    after = delta.rewrite(state, k, torch.zeros(1, 1, dtype=dtype), torch.ones(1, dtype=dtype))
    assert after.dtype == dtype
    assert float(after.abs().max()) <= 2e-2


@pytest.mark.parametrize(
    ("beta", "name"),
    [(0.0, "skip"), (0.249, "skip"), (0.25, "partial"), (0.75, "match"), (1.0, "match"), (1.25, "over"), (2.0, "over")],
)
def test_regimes(beta: float, name: str) -> None:
    assert delta.regime(beta) == name


@pytest.mark.parametrize("beta", [-0.1, 2.1, math.nan])
def test_regime_refuses_what_is_no_gate(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must lie in"):
        delta.regime(beta)


@given(st.floats(0.001, 1.999))
def test_gate_and_logit_are_inverse(beta: float) -> None:
    logit = torch.tensor(delta.logit_from_gate(beta), dtype=torch.float64)
    assert abs(float(delta.gate_from_logit(logit)) - beta) < 1e-12


@pytest.mark.parametrize("beta", [0.0, 2.0, -1.0])
def test_no_logit_for_closed_ends(beta: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 2"):
        delta.logit_from_gate(beta)
