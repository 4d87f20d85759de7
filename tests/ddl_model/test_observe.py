"""What an observer keeps of a pass: rewrites or additions, and what was left out of them."""

import pytest
import torch
from torch import Tensor

from ddl_model import Intervention, Observer, measure
from ddl_model.delta_op import NO_OVERRIDE
from ddl_model.observe import site_names
from tests.ddl_model.quantities.networks import IDS, image_classifier, language_model, pixels

# Of one site, as numbers: scale, shift, low, high, erase, write; and in words.
OVERRIDES = {
    "nothing": (NO_OVERRIDE, ()),
    "drop_erase": ((1.0, 0.0, 0.0, 2.0, 0.0, 1.0), (Intervention("drop_erase", sites=("0.mlp",)),)),
    "drop_write": ((1.0, 0.0, 0.0, 2.0, 1.0, 0.0), (Intervention("drop_write", sites=("0.mlp",)),)),
    "set": ((0.0, 1.7, 0.0, 2.0, 1.0, 1.0), (Intervention("set", value=1.7, sites=("0.mlp",)),)),
    "clamp": ((1.0, 0.0, 0.4, 0.9, 1.0, 1.0), (Intervention("clamp", low=0.4, high=0.9, sites=("0.mlp",)),)),
}


@torch.no_grad()
@pytest.mark.parametrize("word", OVERRIDES)
@pytest.mark.parametrize("name", ["cc-ec", "write only"])
def test_overrides_as_numbers_are_seen_like_interventions(name: str, word: str) -> None:
    model = language_model(name)
    numbers, changes = OVERRIDES[word]
    override = torch.tensor(numbers, dtype=torch.float64)
    for shape in (override, override.expand(2, 6, 6)):
        by_number = Observer(keep_states=True, overrides={"0.mlp": shape})
        by_word = Observer(changes, keep_states=True)
        torch.testing.assert_close(model(IDS, observer=by_number), model(IDS, observer=by_word), atol=1e-12, rtol=0)
        expected = measure(by_word, model.config.residual)
        for quantity, values in measure(by_number, model.config.residual).items():
            torch.testing.assert_close(values, expected[quantity], atol=1e-12, rtol=1e-12, equal_nan=True)


def run(model: object, inputs: Tensor, observer: Observer) -> Tensor:
    with torch.no_grad():
        return model(inputs, observer=observer)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("keep", [True, False])
def test_additive_networks_are_observed_too(keep: bool) -> None:
    for model, inputs in ((language_model("additive"), IDS), (image_classifier("additive"), pixels())):
        observer = Observer(keep_states=keep)
        logits = run(model, inputs, observer)
        with torch.no_grad():
            assert torch.equal(model(inputs), logits)
        assert list(observer.additions) == site_names(2)
        assert not observer.rewrites
        assert bool(observer.states) is bool(observer.directions) is keep
        states = observer.states
        for site, later in zip(list(states), list(states)[1:], strict=False):
            after, output = observer.additions[site]
            assert torch.equal(states[later], after)
            assert torch.equal(after, states[site] + output.unsqueeze(-1))
        with pytest.raises(ValueError, match=r"site 0\.attn was recorded twice: use a new Observer"):
            run(model, inputs, observer)


def test_gates_that_erase_and_write_are_those_that_did() -> None:
    model, changes = language_model("grouped gate"), [Intervention("drop_erase", positions=(1,))]
    observer = Observer(changes, keep_states=True)
    run(model, IDS, observer)
    beta = observer.rewrites["0.attn"].beta
    erase, write = observer.step_gates("0.attn", beta)
    assert torch.equal(write, beta)
    assert not erase[:, 1].any()
    others = [0, 2, 3, 4, 5]
    assert torch.equal(erase[:, others], beta[:, others])
    untouched = Observer()
    run(model, IDS, untouched)
    assert all(gate is beta for gate in untouched.step_gates("0.attn", beta))
