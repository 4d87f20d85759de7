"""The depth algebra against rewriting step by step, in float64; and on a real network."""

import copy
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ddl_model import ImageClassifier, Observer, delta
from ddl_model.path import DepthPath, GramPath, freeze_norm

PROPERTY = settings(deadline=None, max_examples=60)  # the first decomposition in a process takes its time


class Case(NamedTuple):
    """The rewrites of some tokens in float64: directions, gates, targets, first state; and gates to replay."""

    k: Tensor
    beta: Tensor
    target: Tensor
    first_state: Tensor
    other_beta: Tensor

    @property
    def path(self) -> DepthPath:
        return DepthPath(k=self.k, beta=self.beta, target=self.target, first_state=self.first_state)

    @property
    def gram_path(self) -> GramPath:
        first_readout = self.k @ self.first_state
        gram, width = self.k @ self.k.mT, self.k.shape[-1]
        return GramPath(gram=gram, beta=self.beta, target=self.target, first_readout=first_readout, width=width)

    def product(self, first: int = 0) -> Tensor:
        """Multiply the shortcuts from site `first` on as matrices."""
        matrix = torch.eye(self.k.shape[-1], dtype=self.k.dtype).expand(*self.k.shape[:-2], -1, -1)
        for site in range(first, self.k.shape[-2]):
            matrix = delta.shortcut_matrix(self.k[..., site, :], self.beta[..., site]) @ matrix
        return matrix

    def states(self, beta: Tensor | None = None) -> list[Tensor]:
        """Rewrite the state site by site; return it before the first site and after each."""
        beta, states = self.beta if beta is None else beta, [self.first_state]
        for site in range(self.k.shape[-2]):
            states.append(delta.rewrite(states[-1], self.k[..., site, :], self.target[..., site, :], beta[..., site]))
        return states


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw closed, matching, reflecting and other gates; new, repeated, opposite, short and zero directions."""
    lead = draw(st.sampled_from([(), (2,), (3, 2)]))
    sites, d, dv = draw(st.integers(1, 7)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))

    def normal(*shape: int) -> Tensor:
        return torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)

    def gates() -> Tensor:
        drawn = draw(st.lists(st.none() | st.sampled_from([0.0, 1.0, 2.0]), min_size=sites, max_size=sites))
        columns = [normal(1).sigmoid() * 2 if beta is None else torch.full((*lead, 1), beta) for beta in drawn]
        return torch.cat(columns, dim=-1).double()

    k = torch.nn.functional.normalize(normal(sites, d), dim=-1)
    for site in range(sites):
        source = draw(st.none() | st.integers(0, site))
        if source is not None:
            k[..., site, :] = k[..., source, :] * draw(st.sampled_from([1.0, -1.0]))
    lengths = draw(st.lists(st.sampled_from([1.0, 1.0, 0.7, 1e-9, 0.0]), min_size=sites, max_size=sites))
    k = k * torch.tensor(lengths, dtype=torch.float64).unsqueeze(-1)
    first_state = scale * normal(d, dv) * draw(st.sampled_from([1.0, 1.0, 0.0]))
    return Case(k, gates(), scale * normal(sites, dv), first_state, gates())


def close(a: Tensor, b: Tensor, scale: float = 1.0, error: float = 1e-12) -> bool:
    return a.shape == b.shape and bool(((a - b).abs() <= error * scale).all())


def size(case: Case) -> float:
    """Return the size of the numbers in the states of a case."""
    return max(1.0, float(case.first_state.abs().max()), float(case.target.abs().max()))


@PROPERTY
@given(cases())
def test_the_final_state_and_each_coefficient_are_those_of_rewriting_step_by_step(case: Case) -> None:
    states = case.states()
    assert close(case.path.final_state(), states[-1], size(case))
    errors = [
        delta.discrepancy(state, case.k[..., site, :], case.target[..., site, :])
        for site, state in enumerate(states[:-1])
    ]
    expected = case.beta.unsqueeze(-1) * torch.stack(errors, dim=-2)
    assert close(case.path.coefficients, expected, size(case))
    assert close(case.gram_path.coefficients, expected, size(case))


@PROPERTY
@given(cases())
def test_the_product_is_that_of_the_matrices(case: Case) -> None:
    product = case.product()
    assert close(case.path.shortcuts_matrix(), product)
    vectors = torch.randn((*product.shape[:-1], 2), generator=torch.Generator().manual_seed(1), dtype=product.dtype)
    assert close(case.path.apply_shortcuts(vectors), product @ vectors, 10.0)
    assert close(case.path.wy_factor, case.path.wy_factor.tril(), error=0.0)


@PROPERTY
@given(cases())
def test_the_parts_are_what_the_shortcuts_leave_and_sum_to_the_final_state(case: Case) -> None:
    parts = case.path.decomposition()
    assert close(parts.sum(-3), case.states()[-1], size(case))
    assert close(parts[..., 0, :, :], case.product() @ case.first_state, size(case))
    for site in range(case.k.shape[-2]):
        write = case.beta[..., site, None, None] * case.k[..., site, :, None] * case.target[..., site, None, :]
        assert close(parts[..., site + 1, :, :], case.product(site + 1) @ write, size(case))


@PROPERTY
@given(cases())
def test_survival_and_embedding_kept_are_ratios_of_lengths(case: Case) -> None:
    survival = case.path.survival()
    assert survival.shape == case.beta.shape
    for site in range(case.k.shape[-2]):
        k = case.k[..., site, :]
        left = (case.product(site + 1) @ k.unsqueeze(-1)).squeeze(-1)
        assert close(survival[..., site] * k.norm(dim=-1), left.norm(dim=-1))
        unit = torch.nn.functional.normalize(k, dim=-1, eps=1e-300)  # zero where k is
        assert close(survival[..., site], (case.product(site + 1) @ unit.unsqueeze(-1)).squeeze(-1).norm(dim=-1))
    left = (case.product() @ case.first_state).flatten(-2).norm(dim=-1)
    assert close(case.path.embedding_kept() * case.first_state.flatten(-2).norm(dim=-1), left, size(case))


@PROPERTY
@given(cases())
def test_singular_values_are_those_of_the_product_that_are_not_bound_to_be_one(case: Case) -> None:
    found = torch.linalg.svdvals(case.product())
    others = case.k.shape[-1] - min(case.k.shape[-2:])
    assert close(found[..., :others], torch.ones_like(found[..., :others]))
    assert close(case.path.singular_values(), found[..., others:])


@PROPERTY
@given(cases())
def test_effective_rank_is_the_exponential_of_the_entropy(case: Case) -> None:
    shares = case.path.singular_values().reshape(-1, min(case.k.shape[-2:])).tolist()
    for values, rank in zip(shares, case.path.effective_rank().flatten().tolist(), strict=True):
        total = sum(values) or 1.0
        entropy = -sum(value / total * math.log(value / total) for value in values if value > 0)
        assert rank == pytest.approx(math.exp(entropy), rel=1e-12)


@PROPERTY
@given(cases())
def test_determinant_and_its_logarithm(case: Case) -> None:
    for path in (case.path, case.gram_path):
        found = path.log_determinant()
        assert close(found.sign * 10**found.log10, torch.linalg.det(case.product()))
        eigenvalues = delta.eigenvalue(case.beta, case.k.norm(dim=-1))
        assert close(path.eigenvalues, eigenvalues)
        if float(eigenvalues.abs().min()) > 1e-3:
            assert torch.equal(found.sign, eigenvalues.sign().prod(-1))
            assert close(found.log10, eigenvalues.abs().log().sum(-1) / math.log(10), 1e3)


@PROPERTY
@given(cases())
def test_fractions_of_gates_up_to_two_stay_between_zero_and_one(case: Case) -> None:
    for values in (
        case.path.survival(),
        case.path.embedding_kept(),
        case.path.singular_values(),
        case.gram_path.survival(),
        case.gram_path.singular_values(),
    ):
        assert float(values.min()) >= 0.0
        assert float(values.max()) <= 1 + 1e-12
    for rank in (case.path.effective_rank(), case.gram_path.effective_rank()):
        assert float(rank.min()) >= 1 - 1e-12
        assert float(rank.max()) <= min(case.k.shape[-2:]) + 1e-12


@PROPERTY
@given(cases())
def test_the_gram_matrix_alone_tells_the_same(case: Case) -> None:
    assert torch.equal(case.gram_path.wy_factor, case.path.wy_factor)
    assert close(case.gram_path.singular_values(), case.path.singular_values())
    assert close(case.gram_path.effective_rank(), case.path.effective_rank(), error=1e-10)  # steep where a value is 0
    assert close(case.gram_path.survival(), case.path.survival(), error=1e-6)  # the root of G's rounding


@PROPERTY
@given(cases())
def test_replay_with_other_gates_equals_rewriting_with_them(case: Case) -> None:
    replayed = case.path.with_beta(case.other_beta)
    assert close(replayed.final_state(), case.states(case.other_beta)[-1], size(case))
    on_gram = case.gram_path.with_beta(case.other_beta)
    assert close(on_gram.coefficients, replayed.coefficients, size(case))
    assert close(case.path.final_state(), case.states()[-1], size(case))  # the path itself is as before


@PROPERTY
@given(cases())
def test_sites_may_write_by_other_gates_than_they_erase_by(case: Case) -> None:
    """With `write` the sites add b v instead of beta v: shortcuts stay, writes change; beta = 0 only writes."""
    for erase in (case.beta, torch.zeros_like(case.beta)):
        state, added = case.first_state, []
        for site in range(case.k.shape[-2]):
            k = case.k[..., site, :]
            wanted = case.other_beta[..., site, None] * case.target[..., site, :]
            added.append(wanted - erase[..., site, None] * delta.readout(state, k))
            state = state + k.unsqueeze(-1) * added[-1].unsqueeze(-2)
        path = DepthPath(k=case.k, beta=erase, write=case.other_beta, target=case.target, first_state=case.first_state)
        assert close(path.final_state(), state, size(case))
        assert close(path.coefficients, torch.stack(added, dim=-2), size(case))
        assert close(path.decomposition().sum(-3), state, size(case))
        assert close(path.with_beta(case.beta).shortcuts_matrix(), case.product())
        gram = GramPath(
            gram=path.gram,
            beta=erase,
            write=case.other_beta,
            target=case.target,
            first_readout=path.first_readout,
            width=path.width,
        )
        assert close(gram.coefficients, path.coefficients, size(case))
    assert close(path.survival(), (case.k.norm(dim=-1) > 0).double())  # nothing erases
    assert torch.equal(path.eigenvalues, torch.ones_like(path.beta))


@PROPERTY
@given(cases())
def test_parts_are_compressed_without_being_made(case: Case) -> None:
    compressor = torch.linspace(-1, 2, case.first_state[..., :, :].shape[-2:].numel(), dtype=torch.float64)
    compressor = compressor.view(case.first_state.shape[-2:])
    expected = (case.path.decomposition() * compressor).sum(-1)
    assert close(case.path.compressed_parts(compressor), expected, 10 * size(case))
    of_each_token = compressor * torch.ones_like(case.first_state)
    assert close(case.path.compressed_parts(of_each_token), expected, 10 * size(case))


@PROPERTY
@given(cases())
def test_frozen_norms_sum_to_the_norm(case: Case) -> None:
    parts = case.path.decomposition()[..., 0]
    norm = nn.RMSNorm(parts.shape[-1], eps=1e-5, dtype=torch.float64)
    norm.weight.data = torch.linspace(-1, 2, parts.shape[-1], dtype=torch.float64)
    assert close(freeze_norm(parts, norm.weight, 1e-5).sum(-2), norm(parts.sum(-2)), 10 * size(case))


def test_directions_may_be_longer_where_the_path_says_how_long() -> None:
    k, beta, target, first_state = example(3, 4)
    case = Case(2 * k, beta, target, first_state, beta)
    with pytest.raises(ValueError, match=r"directions must be at most 1 long, got \|k\|\^2 = 3\.2"):
        _ = case.path
    with pytest.raises(ValueError, match=r"directions must be at most 1\.5 long"):
        DepthPath(k=2 * k, beta=beta, target=target, first_state=first_state, longest=1.5)
    path = DepthPath(k=2 * k, beta=beta, target=target, first_state=first_state, longest=1.8)
    assert close(path.final_state(), case.states()[-1], 100.0)
    assert close(path.shortcuts_matrix(), case.product(), 100.0)
    assert float(path.singular_values().max()) > 1


@PROPERTY
@given(cases(), st.integers(1, 4))
def test_logit_contributions_are_linear_parts_of_the_logits(case: Case, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    d, dv = case.first_state.shape[-2:]
    compressor, unembedding, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((d, dv), (classes, d), (d,))
    )
    norm = nn.RMSNorm(d, eps=1e-5, dtype=torch.float64)
    norm.weight.data = weight
    rows = case.path.logit_contributions(compressor, weight, 1e-5, unembedding)
    assert rows.shape == (*case.k.shape[:-2], case.k.shape[-2] + 1, classes)
    token = (case.states()[-1] * compressor).sum(-1)
    scale = weight / (token.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    slope = float(unembedding.abs().sum()) * float(scale.abs().max()) * float(compressor.abs().max())
    assert close(rows.sum(-2), norm(token) @ unembedding.mT, slope * size(case))
    for row, part in enumerate(case.path.decomposition().unbind(-3)):
        expected = ((part * compressor).sum(-1) * scale) @ unembedding.mT
        assert close(rows[..., row, :], expected, slope * size(case))


def test_closed_gates_change_nothing_at_all() -> None:
    case = Case(*example(3, 4), other_beta=torch.zeros(2, 3, dtype=torch.float64))
    closed = case.path.with_beta(case.other_beta)
    assert torch.equal(closed.final_state(), case.first_state)
    assert torch.equal(closed.survival(), torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(closed.embedding_kept(), torch.ones(2, dtype=torch.float64))
    assert close(closed.effective_rank(), torch.full((2,), 3.0, dtype=torch.float64))


def test_an_overwrite_along_the_same_direction_leaves_nothing_of_the_write_before() -> None:
    k = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)
    target = torch.tensor([[5.0], [7.0], [0.5]], dtype=torch.float64)
    state = torch.zeros(2, 1, dtype=torch.float64)
    path = DepthPath(k=k, beta=torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), target=target, first_state=state)
    assert path.survival().tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-15)
    assert path.final_state()[:, 0].tolist() == pytest.approx([7 * 0.6 + 0.8, 7 * 0.8 - 0.6])
    assert path.singular_values().tolist() == pytest.approx([1.0, 0.0], abs=1e-15)
    assert path.effective_rank().item() == pytest.approx(1.0)
    assert path.embedding_kept().item() == 0.0  # of an embedding that is zero


def test_no_tokens_are_a_path_too() -> None:
    path = DepthPath(
        k=torch.zeros(0, 3, 4), beta=torch.zeros(0, 3), target=torch.zeros(0, 3, 2), first_state=torch.zeros(0, 4, 2)
    )
    assert path.final_state().shape == (0, 4, 2)
    assert path.survival().shape == path.singular_values().shape == (0, 3)


def example(sites: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two generic tokens with two value channels: directions shorter than 1, gates off the ends."""
    generator = torch.Generator().manual_seed(sites + 10 * d)
    raw = torch.randn(2, sites, d, generator=generator, dtype=torch.float64)
    k = 0.9 * torch.nn.functional.normalize(raw, dim=-1)
    beta = 0.1 + 1.8 * torch.rand(2, sites, generator=generator, dtype=torch.float64)
    target = torch.randn(2, sites, 2, generator=generator, dtype=torch.float64)
    return k, beta, target, torch.randn(2, d, 2, generator=generator, dtype=torch.float64)


def contributions(path: DepthPath) -> Tensor:
    d = path.k.shape[-1]
    compressor = torch.linspace(-1, 2, d * 2, dtype=torch.float64).reshape(d, 2)
    return path.logit_contributions(compressor, compressor[:, 1], 1e-5, compressor.mT)


QUANTITIES: dict[str, Callable[[DepthPath], Tensor]] = {
    "final state": DepthPath.final_state,
    "coefficients": lambda path: path.coefficients,
    "product": DepthPath.shortcuts_matrix,
    "survival": DepthPath.survival,
    "embedding kept": DepthPath.embedding_kept,
    "determinant": lambda path: path.log_determinant().log10,
    "singular values": DepthPath.singular_values,
    "effective rank": DepthPath.effective_rank,
    "logits": contributions,
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(("sites", "d"), [(2, 3), (3, 2)])
def test_gradients_are_those_of_small_differences(quantity: str, sites: int, d: int) -> None:
    def value(k: Tensor, beta: Tensor, target: Tensor, first_state: Tensor) -> Tensor:
        return QUANTITIES[quantity](DepthPath(k=k, beta=beta, target=target, first_state=first_state))

    inputs = tuple(tensor[:1].clone().requires_grad_() for tensor in example(sites, d))
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("quantity", [name for name in QUANTITIES if name not in ("singular values", "effective rank")])
def test_gradients_stay_finite_where_directions_repeat_or_vanish(quantity: str) -> None:
    k, beta, target, first_state = example(4, 3)
    k[:, 1], k[:, 2] = k[:, 0], 0.0
    inputs = [tensor.requires_grad_() for tensor in (k, beta, target, first_state)]
    QUANTITIES[quantity](DepthPath(k=k, beta=beta, target=target, first_state=first_state)).sum().backward()
    assert all(tensor.grad is None or bool(tensor.grad.isfinite().all()) for tensor in inputs)
    assert beta.grad is not None
    assert bool(beta.grad.any())


def test_singular_values_have_finite_gradients_where_directions_repeat_or_vanish() -> None:
    k, beta, target, first_state = example(4, 5)
    k[:, 1], k[:, 2] = k[:, 0], 0.0
    k.requires_grad_()
    DepthPath(k=k, beta=beta, target=target, first_state=first_state).singular_values().square().sum().backward()
    assert k.grad is not None
    assert bool(k.grad.isfinite().all())
    expected = k.detach().clone().requires_grad_()
    torch.linalg.svdvals(Case(expected, beta, target, first_state, beta).product()).square().sum().backward()
    assert expected.grad is not None
    assert close(k.grad, expected.grad)


class Observed(NamedTuple):
    """One pass of the network: the path, last state of every token, and the logits of every image."""

    path: DepthPath
    final_state: Tensor
    logits: Tensor


def observe(model: ImageClassifier) -> Observed:
    """Run the network and recompute each direction from the state that its sublayer saw."""
    config, observer = model.config, Observer()
    shape = (3, config.image_channels, config.image_height, config.image_width)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = model(pixels, observer)
        state = first_state = model.embed(pixels)
        directions = []
        for site, step in zip(
            model.sites, (step for block in model.blocks for step in (block.attn, block.mlp)), strict=True
        ):
            raw = step.process(step.norm(step.compress(state)))
            directions.append(delta.unit_direction(raw, config.residual.direction_eps).k)
            state = observer.rewrites[site].new_state
    seen = observer.rewrites.values()
    path = DepthPath(
        k=torch.stack(directions, dim=-2),
        beta=torch.stack([rewrite.beta for rewrite in seen], dim=-1),
        target=torch.stack([rewrite.target for rewrite in seen], dim=-2),
        first_state=first_state,
    )
    readouts = torch.stack([rewrite.readout for rewrite in seen], dim=-2)
    torch.testing.assert_close(path.coefficients, path.beta.unsqueeze(-1) * (path.target - readouts), atol=1e-4, rtol=0)
    return Observed(path, state, logits)


def test_a_network_s_final_states_are_rebuilt_and_contributions_sum_to_its_logits(tiny_model: ImageClassifier) -> None:
    path, final_state, logits = observe(tiny_model)
    torch.testing.assert_close(path.final_state(), final_state, atol=1e-4, rtol=0)
    torch.testing.assert_close(path.decomposition().sum(-3), final_state, atol=1e-4, rtol=0)
    assert path.survival().shape == path.singular_values().shape == path.beta.shape
    assert float(torch.maximum(path.survival(), path.singular_values()).max()) <= 1 + 1e-5
    norm, head, compressor = tiny_model.final_norm, tiny_model.head, tiny_model.final_compress.weight
    assert compressor is not None
    assert norm.eps is not None
    with torch.no_grad():
        rows = path.logit_contributions(compressor, norm.weight, norm.eps, head.weight)
        of_token = head(norm(tiny_model.final_compress(final_state)))
    torch.testing.assert_close(rows.sum(-2) + head.bias, of_token, atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.sum(-2).mean(1) + head.bias, logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("site", "agree"), [(3, True), (0, False)])
def test_direct_and_total_effect_agree_at_the_last_site_alone(
    tiny_model: ImageClassifier, site: int, agree: bool
) -> None:
    beta = observe(tiny_model).path.beta.clone()
    beta[..., site] = 0.0
    direct = observe(tiny_model).path.with_beta(beta).final_state()
    changed = copy.deepcopy(tiny_model)
    gate = [step.residual.gate for block in changed.blocks for step in (block.attn, block.mlp)][site]
    nn.init.zeros_(gate.weight)
    nn.init.constant_(gate.bias, -1e4)
    assert close(direct, observe(changed).final_state, error=1e-4) is agree


@pytest.fixture
def without_shape_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the checker that only tests have: callers must get the path's own messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def good(**changes: Tensor) -> dict[str, Tensor]:
    return dict(zip(("k", "beta", "target", "first_state"), example(3, 4), strict=True)) | changes


DOUBLES = torch.ones(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": DOUBLES[:, :2]}, r"beta must have shape \(2, S = 3\), no named axis empty, got \(2, 2\)"),
        ({"beta": DOUBLES[0]}, r"beta must have shape \(2, S = 3\), no named axis empty, got \(3,\)"),
        ({"beta": -0.1 * DOUBLES}, r"beta must lie in \[0, 2\], got -0\.1"),
        ({"beta": 2.1 * DOUBLES}, r"beta must lie in \[0, 2\], got 2\.1"),
        ({"beta": math.nan * DOUBLES}, r"beta must lie in \[0, 2\], got nan"),
        ({"beta": DOUBLES.float()}, r"must be all float32 or all float64, but beta is torch\.float32"),
        ({"k": 2 * DOUBLES[..., None]}, r"first_state must have shape \(2, d = 1, dv = 2\).*got \(2, 4, 2\)"),
        ({"k": 0.6 * DOUBLES[..., None].expand(2, 3, 4)}, r"at most 1 long, got \|k\|\^2 = 1\.44: use delta\.unit"),
        ({"k": DOUBLES[..., None].expand(2, 3, 4) * math.nan}, r"at most 1 long, got \|k\|\^2 = nan"),
        ({"k": DOUBLES[0]}, r"k must have shape \(S = 3, d = \?\).*got \(3,\)"),
        (
            {"k": torch.zeros(2, 0, 4, dtype=torch.float64)},
            r"k must have shape \(2, S = 0, d = 4\), no named axis empty",
        ),
        ({"target": DOUBLES[..., None]}, r"first_state must have shape \(2, d = 4, dv = 1\).*got \(2, 4, 2\)"),
    ],
)
@pytest.mark.usefixtures("without_shape_checker")
def test_what_is_no_path_is_refused_with_a_reason(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthPath(**good(**changes))
    if "beta" in changes:
        with pytest.raises(ValueError, match=message):
            DepthPath(**good()).with_beta(changes["beta"])


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"all float32 or all float64, but k is torch\.bfloat16"):
        DepthPath(**{name: tensor.bfloat16() for name, tensor in good().items()})


@pytest.mark.parametrize(
    ("gram", "readouts", "width", "message"),
    [
        (torch.eye(3)[:2], 3, 4, r"gram must have shape \(S = 2, S = 2\), no named axis empty, got \(2, 3\)"),
        (torch.eye(3), 2, 4, r"first_readout must have shape \(S = 3, dv = 1\), no named axis empty, got \(2, 1\)"),
        (torch.eye(3), 3, 0, "width must be at least 1, got 0"),
        (torch.eye(3) + 0.5 * torch.ones(3, 3).tril(-1), 3, 4, "gram must be symmetric"),
        (2 * torch.eye(3), 3, 4, r"at most 1 long, got \|k\|\^2 = 2\.0"),
    ],
)
@pytest.mark.usefixtures("without_shape_checker")
def test_what_is_no_gram_path_is_refused_with_a_reason(gram: Tensor, readouts: int, width: int, message: str) -> None:
    beta, target = torch.ones(3), torch.ones(3, 1)
    with pytest.raises(ValueError, match=message):
        GramPath(gram=gram, beta=beta, target=target, first_readout=torch.ones(readouts, 1), width=width)


@pytest.mark.usefixtures("without_shape_checker")
def test_gates_that_write_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"write must lie in \[0, 2\], got 2\.1"):
        DepthPath(**good(write=2.1 * DOUBLES))
    with pytest.raises(ValueError, match=r"write must have shape \(2, S = 3\), no named axis empty, got \(2, 2\)"):
        DepthPath(**good(write=DOUBLES[:, :2]))


@pytest.mark.usefixtures("without_shape_checker")
def test_arguments_that_do_not_fit_the_path_are_refused() -> None:
    path = DepthPath(**good())
    with pytest.raises(ValueError, match=r"state must have shape \(2, d = 4, c = 1\).*got \(2, 5, 1\)"):
        path.apply_shortcuts(torch.ones(2, 5, 1, dtype=torch.float64))
    fitting = {"compressor": torch.ones(4, 2), "norm_weight": torch.ones(4), "unembedding": torch.ones(3, 4)}
    for name, wrong in (("compressor", (4, 1)), ("norm_weight", (1,)), ("unembedding", (3, 1))):
        head = {key: value.double() for key, value in (fitting | {name: torch.ones(wrong)}).items()}
        with pytest.raises(ValueError, match=rf"{name} must have shape \(.*d = 4.*\), .* got {re.escape(str(wrong))}"):
            path.logit_contributions(**head, norm_eps=1e-5)
