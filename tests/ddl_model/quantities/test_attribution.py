"""Contributions to logits are exact parts: they sum to the logit, and each is what its own part of the state gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddl_model import Intervention, ResidualConfig, Trace, trace
from ddl_model.quantities.attribution import _unit
from tests.ddl_model.quantities.networks import (
    GROUPED,
    IDS,
    IMAGES,
    LANGUAGE,
    Apart,
    close,
    image_classifier,
    language_model,
    pixels,
    take_apart,
)
from tests.ddl_model.test_language_model import lively_model
from tests.ddl_model.test_language_model import state as with_state

EXACT = [name for name, config in LANGUAGE.items() if config.state.compress == "channel"]
NAMES = ["logit_contrib", "readout_alignment"]
CHANGES = {
    "as it is": (),
    "no erasing": (Intervention("drop_erase", sites=("0.mlp", "1.attn"), positions=(1, 4)),),
    "no writing": (Intervention("drop_write", positions=(0, -1)), Intervention("scale", value=1.3)),
}
TARGETS = torch.randint(0, 31, (2, 6, 3), generator=torch.Generator().manual_seed(9))


def check(seen: Trace, apart: Apart, weights: Tensor, norm: torch.nn.RMSNorm, rows: Tensor) -> None:
    """Compare with every part of the final state sent through the head by itself; `rows` are (b, t, n, d)."""
    compressed = (apart.states[-1] * weights).sum(-1)
    scale = norm.weight / (compressed.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    for row, part in enumerate(apart.parts()):
        expected = torch.einsum("btd,btnd->btn", (part * weights).sum(-1) * scale, rows)
        close(seen["logit_contrib"][row], expected)
    for site in range(len(apart.k)):
        written = apart.k[site].unsqueeze(-1) * (apart.write[site] * apart.target[site]).unsqueeze(-2)
        vector = (written * weights).sum(-1)
        cosine = torch.nn.functional.cosine_similarity(vector.unsqueeze(-2), rows, dim=-1)
        close(seen["readout_alignment"][site], cosine)


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", EXACT)
def test_rows_are_the_parts_of_the_state_and_sum_to_the_logit(name: str, change: str) -> None:
    model = language_model(name)
    changes = () if model.config.residual.rule == "additive" else CHANGES[change]
    seen = trace(model, IDS, NAMES, interventions=changes, targets=TARGETS)
    apart = take_apart(model, IDS, *changes)
    close(apart.parts().sum(0), apart.states[-1])
    rows = model.embedding.weight[TARGETS] * model.config.logits_scale
    check(seen, apart, model.final_compress.weights(apart.states[0]), model.final_norm, rows)
    close(seen["logit_contrib"].sum(0), seen.logits.gather(-1, TARGETS))


@torch.no_grad()
@pytest.mark.parametrize("rule", IMAGES)
def test_a_classifier_s_rows_and_positions_sum_to_the_logit_less_its_bias(rule: str) -> None:
    model, classes = image_classifier(rule), torch.tensor([[0, 1, 2], [2, 1, 0]])
    seen = trace(model, pixels(), NAMES, targets=classes)
    apart = take_apart(model, pixels())
    rows = model.head.weight[classes].unsqueeze(1).expand(2, 4, 3, 8)
    check(seen, apart, model.final_compress.weights(apart.states[0]), model.final_norm, rows / 4)
    without_bias = (seen.logits - model.head.bias).gather(-1, classes)
    close(seen["logit_contrib"].sum((0, 2)), without_bias)


def test_no_target_has_no_contribution() -> None:
    seen = trace(language_model("cc-ec"), IDS, NAMES, targets="next")
    for values in seen.values():
        assert bool(values[:, :, -1].isnan().all())
        assert bool(values[:, :, :-1].isfinite().all())


def test_a_last_write_is_what_leaving_it_out_takes_away() -> None:
    """With the norm frozen: compared as vectors before the norm, where leaving out the last write is exact."""
    model = language_model("cc-ec")
    whole = take_apart(model, IDS)
    without = take_apart(model, IDS, Intervention("drop_write", sites=("1.mlp",)))
    close(whole.states[-1] - without.states[-1], whole.parts()[-1])
    seen = trace(model, IDS, NAMES, interventions=[Intervention("drop_write", sites=("1.mlp",))])
    assert float(seen["logit_contrib"][-1].abs().max()) == 0
    assert float(seen["readout_alignment"][-1].abs().max()) == 0


def test_a_cosine_does_not_mind_how_small_a_write_is() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) * 1e-200
    assert _unit(vectors).tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]


@settings(deadline=None, max_examples=25)
@given(
    rule=st.sampled_from(["delta", "write_only", "additive"]),
    grouped=st.booleans(),
    norm=st.sampled_from(["guarded", "exact", "learned_scale"]),
    channel_weights=st.sampled_from(["direct", "convolution"]),
    expand=st.sampled_from(["repeat", "convolution"]),
    operation=st.sampled_from(["set", "scale", "clamp", "mean", "drop_erase", "drop_write", "none"]),
    value=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_the_identities_hold_whatever_the_network_and_the_change(
    rule: str, grouped: bool, norm: str, channel_weights: str, expand: str, operation: str, value: float, seed: int
) -> None:
    residual = ResidualConfig(
        rule=rule,  # type: ignore[arg-type]
        gate="grouped" if grouped else "linear",
        gate_groups=GROUPED.gate_groups if grouped else 1,
        direction_norm=norm,  # type: ignore[arg-type]
    )
    config = with_state(channel_weights=channel_weights, expand=expand)
    model = lively_model(type(config)(**(vars(config) | {"residual": residual})), seed)
    changes = []
    if rule != "additive" and operation != "none":
        changes = [Intervention(operation, value=value, low=value / 2, high=value)]  # type: ignore[arg-type]
    seen = trace(model, IDS, "all", interventions=changes, targets="next")
    ids = seen.targets.clamp_min(0)
    close(seen["logit_contrib"].sum(0)[:, :-1], seen.logits.gather(-1, ids)[:, :-1])
    assert float(seen["lens_kl"][-1].abs().max()) < 1e-10
    norms = seen["state_norm"].square()
    close(norms[1:], (norms + seen["energy_delta"])[:-1], 1e-9)
    if rule == "delta" and norm != "learned_scale":
        for name in ("survival", "embedding_kept", "path_sigma"):
            assert float(seen[name].min()) >= 0
            assert float(seen[name].max()) <= 1 + 1e-12
        determinant = seen["eigenvalue"].prod(0)
        close(seen["path_sign"] * 10 ** seen["path_logdet"], determinant)
