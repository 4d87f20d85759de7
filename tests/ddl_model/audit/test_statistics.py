"""What pairs of seeds settle, and what they do not."""

import pytest
from scipy import stats

from ddl_model.audit.statistics import compare_arms


def pairs(*differences: float) -> tuple[dict[int, float], dict[int, float]]:
    return {seed: 1.0 + value for seed, value in enumerate(differences)}, dict.fromkeys(range(len(differences)), 1.0)


def test_the_numbers_of_a_paired_t_test() -> None:
    found = compare_arms("delta", "write_only", *pairs(-0.0048, -0.0180, -0.0206))
    assert found.mean == pytest.approx(-0.01447, abs=1e-4)
    assert found.t == pytest.approx(-2.96, abs=0.01)
    assert found.p == pytest.approx(0.0979, abs=1e-3)
    firsts, seconds = pairs(-0.0048, -0.0180, -0.0206)
    assert found.p == pytest.approx(stats.ttest_rel(list(firsts.values()), list(seconds.values())).pvalue)
    assert found.interval is not None
    assert found.interval[0] < 0 < found.interval[1]
    assert found.verdict == "not settled: 3 pairs, at least 5 are needed; p = 0.098, the interval holds 0"


def test_enough_seeds_that_agree_settle_it() -> None:
    found = compare_arms("delta", "write_only", *pairs(-0.02, -0.018, -0.022, -0.019, -0.021))
    assert found.is_settled
    assert found.verdict == "delta is lower than write_only (5 pairs)"
    turned = compare_arms("delta", "write_only", *pairs(0.02, 0.018, 0.022, 0.019, 0.021))
    assert turned.verdict == "write_only is lower than delta (5 pairs)"


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ((), "no seed that both arms have"),
        ((-0.1,), "1 pair, at least 5"),
        ((-0.1, -0.1001, -0.0999), "3 pairs, at least 5"),
        ((-0.1, 0.1, -0.1, 0.1, 0.05), "the interval holds 0"),
        ((0.0,) * 5, "all pairs are alike"),
    ],
)
def test_what_settles_nothing(differences: tuple[float, ...], words: str) -> None:
    found = compare_arms("a", "b", *pairs(*differences))
    assert not found.is_settled
    assert found.verdict.startswith("not settled: ")
    assert words in found.verdict


def test_seeds_are_paired_by_their_number() -> None:
    found = compare_arms("a", "b", {1: 1.0, 2: 2.0, 3: 3.0}, {2: 1.0, 3: 1.0, 4: 9.0})
    assert found.seeds == (2, 3)
    assert found.differences == (1.0, 2.0)
