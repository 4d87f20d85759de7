import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gates.quantities import QUANTITIES
from service.gates.step import FORMULAS, Captured


def captured(eps: float = 1e-6, rule: str = "delta", **outputs: float | list[float]) -> Captured:
    """Return the capture of one site and one position."""
    return Captured({name: np.array(value, np.float32)[None, None] for name, value in outputs.items()}, eps, rule)


def compute(name: str, captured: Captured) -> float:
    return float(FORMULAS[name](captured)[0, 0])


@pytest.mark.parametrize(
    ("raw", "eps", "expected"),
    [
        (3.0, 4.0, 0.6),
        (0.0, 1e-6, 0.0),
        (0.0, 0.0, 0.0),
        (1e-30, 0.0, 1.0),
        (1e30, 1e-6, 1.0),
        (np.inf, 1e-6, 0.0),  # its square overflowed, so the graph's direction was zero
    ],
)
def test_the_length_of_the_direction_at_its_ends(raw: float, eps: float, expected: float) -> None:
    assert compute("k_norm", captured(eps, k_raw_norm=raw)) == pytest.approx(expected, rel=1e-6)


def test_a_direction_that_is_no_number_stays_none() -> None:
    assert np.isnan(compute("k_norm", captured(k_raw_norm=np.nan)))


@pytest.mark.parametrize(("beta", "factor"), [(0.0, 1.0), (1.0, 0.0), (2.0, -1.0)])
def test_skip_overwrite_and_reflect(beta: float, factor: float) -> None:
    one = captured(0.0, beta=beta, k_raw_norm=5.0, proj=[3.0, 0.0], v=[0.0, 4.0])
    assert compute("eigenvalue", one) == factor
    assert FORMULAS["e_post"](one)[0, 0].tolist() == [3.0 * factor, -4.0 * factor]
    assert compute("e_pre_norm", one) == 5.0
    assert compute("e_post_norm", one) == 5.0 * abs(factor)
    assert compute("erase_norm", one) == 3.0 * beta
    assert compute("write_norm", one) == 4.0 * beta
    assert compute("update_norm", one) == 5.0 * beta


def test_without_erasing_the_target_is_added() -> None:
    one = captured(0.0, "write_only", beta=0.5, k_raw_norm=5.0, proj=[3.0, 0.0], v=[0.0, 4.0])
    assert FORMULAS["e_post"](one)[0, 0].tolist() == [3.0, -2.0]
    assert compute("update_norm", one) == 2.0
    assert {name for name, quantity in QUANTITIES.items() if "write_only" not in quantity.rules} == {
        "eigenvalue",
        "erase_norm",
        "balance",
        "survival",
        "embedding_kept",
        "path_logdet",
        "path_sign",
        "path_sigma",
        "path_erank",
    }


@given(
    beta=st.floats(0, 2, width=32),
    raw=st.floats(0, 1e6, width=32),
    eps=st.floats(0, 10),
    proj=st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
    v=st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
)
def test_a_rewrite_in_float64_does_what_the_closed_forms_say(
    beta: float, raw: float, eps: float, proj: list[float], v: list[float]
) -> None:
    one = captured(eps, beta=beta, k_raw_norm=raw, proj=proj, v=v)
    kappa = compute("k_norm", one)
    assert 0 <= kappa <= 1
    # One direction along the first axis: k = (kappa, 0), and a state whose readout is proj.
    p, target = np.array(proj), np.array(v)
    row = p / kappa if kappa > 1e-3 else None
    if row is not None:
        after = row + beta * kappa * (target - p)
        assert FORMULAS["e_post"](one)[0, 0] == pytest.approx(kappa * after - target, rel=1e-6, abs=1e-6)
        assert compute("update_norm", one) == pytest.approx(np.linalg.norm(after - row), rel=1e-6, abs=1e-6)
    assert compute("update_norm", one) <= compute("erase_norm", one) + compute("write_norm", one) + 1e-6


def test_what_is_computed_has_the_axes_that_are_stated() -> None:
    one = captured(beta=1.0, beta_logit=0.0, k_raw_norm=1.0, proj=[1.0, 2.0], v=[0.0, 1.0])
    for name, row in QUANTITIES.items():
        assert row.definition, name
        assert (name in FORMULAS) == (row.family == "step"), name
        assert name not in FORMULAS or FORMULAS[name](one).ndim == len(row.axes), name
