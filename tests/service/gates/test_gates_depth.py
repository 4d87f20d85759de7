"""The algebra over depth against the rewrites themselves, one after another, in float64."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gates.align import align
from service.gates.depth import FORMULAS, Depth, state_quantities


@settings(max_examples=60, deadline=None)
@given(
    sites=st.integers(1, 7),
    width=st.integers(1, 9),
    channels=st.integers(1, 4),
    shortest=st.sampled_from([1.0, 1e-3, 0.0]),
    drops=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_algebra_is_the_rewrites(
    sites: int, width: int, channels: int, shortest: float, drops: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((2, sites, width))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    k[:, 0] *= shortest
    beta = rng.uniform(0, 2, (2, sites))
    erase = beta * (rng.random((2, sites)) > 0.3) if drops else beta
    v, first = rng.standard_normal((2, sites, channels)), rng.standard_normal((2, width, channels))
    path = Depth(k=k, erase=erase, write=beta, v=v, first=first)
    for row in range(2):
        state, product, left = first[row], np.eye(width), k[row].copy()
        states = [state]
        for site in range(sites):
            direction = k[row, site]
            shortcut = np.eye(width) - erase[row, site] * np.outer(direction, direction)
            state = shortcut @ state + beta[row, site] * np.outer(direction, v[row, site])
            product = shortcut @ product
            left[:site] = left[:site] @ shortcut.T
            states.append(state)
        np.testing.assert_allclose(path.final[row], state, atol=1e-12)
        np.testing.assert_allclose([s[row] for s in path.states()], states, atol=1e-12)
        np.testing.assert_allclose(path.kept_first[row], product @ first[row], atol=1e-12)
        np.testing.assert_allclose(path.survivors[row], left, atol=1e-12)
        parts = path.kept_first[row] + np.einsum("s,sd,sv->dv", beta[row], path.survivors[row], v[row])
        np.testing.assert_allclose(parts, state, atol=1e-12)
        sigma = np.linalg.svd(product, compute_uv=False)
        mine = np.sort(np.concatenate([path.sigma[row], np.ones(width - path.sigma.shape[-1])]))[::-1]
        np.testing.assert_allclose(mine, sigma, atol=1e-10)
        sizes = [np.linalg.norm(s) for s in states[:-1]]
        np.testing.assert_allclose(state_quantities(path, {"state_norm"})["state_norm"][:, row], sizes, atol=1e-12)
    for name in ("survival", "embedding_kept", "path_sigma"):
        values = FORMULAS[name](path)
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-9


@given(first=st.lists(st.integers(0, 3), max_size=8), second=st.lists(st.integers(0, 3), max_size=8))
def test_aligned_positions_are_equal_and_rise(first: list[int], second: list[int]) -> None:
    own, other = align(first, second)
    assert [first[i] for i in own] == [second[i] for i in other]
    for places, text in ((own, first), (other, second)):
        assert list(places) == sorted(set(places))
        assert all(0 <= place < len(text) for place in places)
    if first == second:
        assert len(own) == len(first)
