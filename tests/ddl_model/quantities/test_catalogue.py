"""What exists, exists; what does not is absent with a reason, and refused where it is asked for by name."""

import jaxtyping
import pytest
import torch

from ddl_model import DeltaMLP, DeltaMLPConfig, Intervention, Observer, measure, trace
from ddl_model.quantities import CATALOGUE, COMPANIONS, PRESETS, QuantityError
from tests.ddl_model.quantities.networks import IDS, LANGUAGE, close, image_classifier, language_model, pixels

# Which quantities exist under which rule: the last column of the gates API's catalogue, row by row.
EVERY = {
    "k_raw_norm",
    "update_norm",
    "energy_delta",
    "state_norm",
    "update_ratio",
    "drift",
    "state_cos",
    "k_cos_prev",
    "gram",
    "lens_topk",
    "lens_topk_logprob",
    "lens_kl",
    "lens_entropy",
    "lens_target_logprob",
    "lens_target_rank",
    "logit_contrib",
    "readout_alignment",
}
GATED = {
    "beta",
    "beta_logit",
    "proj",
    "v",
    "k_norm",
    "e_pre",
    "e_post",
    "e_pre_norm",
    "e_post_norm",
    "write_norm",
    "agreement",
    "rewrite_of",
    "rewrite_cos",
}
DELTA = {
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
OF_RULE = {"delta": EVERY | GATED | DELTA, "write_only": EVERY | GATED, "additive": EVERY}
ATTRIBUTION = {"logit_contrib", "readout_alignment"}
PER_GATE = {"beta", "beta_logit", "eigenvalue", *DELTA} - {"erase_norm", "balance"}


def test_the_catalogue_is_that_of_the_gates_api() -> None:
    assert set(CATALOGUE) == EVERY | GATED | DELTA
    assert PRESETS["core"] == ("beta",)
    assert set(PRESETS["audit"]) == {"beta", "e_pre_norm", "e_post_norm", "update_ratio", "balance"}
    assert set(PRESETS["page"]) == {"beta", "eigenvalue", "e_pre_norm", "e_post_norm", "erase_norm", "write_norm"} | {
        "update_ratio",
        "state_norm",
        "k_cos_prev",
    }
    assert set(PRESETS["path"]) == {"survival", "embedding_kept", "path_logdet", "path_sigma"}
    assert all(set(names) <= set(CATALOGUE) for names in (*PRESETS.values(), *COMPANIONS.values()))


@pytest.mark.parametrize("name", LANGUAGE)
def test_every_network_has_what_its_rule_has_and_says_why_it_lacks_the_rest(name: str) -> None:
    config = LANGUAGE[name]
    seen = trace(language_model(name), IDS, "all")
    expected = set(OF_RULE[config.residual.rule])
    if config.state.compress == "token":
        expected -= ATTRIBUTION
    if config.state.value_channels == 1:
        expected -= {"agreement"}
    assert set(seen) == expected
    assert set(seen.absent) == set(CATALOGUE) - expected
    for absent, reason in seen.absent.items():
        with pytest.raises(KeyError, match=f"{absent}: "):
            seen[absent]
        with pytest.raises(QuantityError, match=f"there is no {absent} here: .*; there are .*k_raw_norm") as refusal:
            trace(language_model(name), IDS, [absent])
        assert reason in str(refusal.value)
        named = str(refusal.value).partition("; there are ")[2].split(", ")
        assert set(named) == expected
    assert seen.sites == ("0.attn", "0.mlp", "1.attn", "1.mlp")


@pytest.mark.parametrize("name", LANGUAGE)
def test_axes_are_as_long_as_they_say(name: str) -> None:
    config = LANGUAGE[name]
    seen = trace(language_model(name), IDS, "all", targets="next", top_k=4)
    groups = config.residual.gate_groups
    sizes = {"site": 4, "site+1": 5, "row": 2, "position": 6, "channel": config.state.value_channels}
    sizes |= {"pair": 6, "k": 4, "target": 1, "group": groups}
    for quantity, values in seen.items():
        axes = seen.axes(quantity)
        assert values.shape == tuple(sizes[axis] for axis in axes), quantity
        assert ("group" in axes) == (config.residual.gate == "grouped" and quantity in PER_GATE), quantity
        assert values.dtype == (torch.int64 if CATALOGUE[quantity].unit in ("id", "site") else values.dtype)
    assert seen["lens_target_rank"].dtype == torch.int64


@pytest.mark.parametrize("rule", ["delta", "write_only", "additive"])
def test_classifiers_have_the_same_quantities_with_one_position_for_the_lens(rule: str) -> None:
    seen = trace(image_classifier(rule), pixels(), "all")
    assert set(seen) == OF_RULE[rule]
    assert seen["state_norm"].shape == (4, 2, 4)
    assert seen["lens_kl"].shape == (4, 2, 1)
    assert seen["lens_topk"].shape == (4, 2, 1, 3)  # all classes, where there are fewer than five
    assert seen["logit_contrib"].shape == (5, 2, 4, 1)


def test_presets_names_and_lists_of_both() -> None:
    model = language_model("cc-ec")
    assert list(trace(model, IDS)) == list(PRESETS["page"])
    assert list(trace(model, IDS, "core")) == ["beta"]
    assert list(trace(model, IDS, "lens_topk")) == ["lens_topk", "lens_topk_logprob"]
    assert list(trace(model, IDS, ["v", "core", "beta"])) == ["v", "beta"]
    assert list(trace(model, IDS, "path")) == [
        "survival",
        "embedding_kept",
        "path_logdet",
        "path_sign",
        "path_sigma",
    ]
    written = trace(language_model("write only"), IDS, "page")
    assert set(written.absent) == {"eigenvalue", "erase_norm"}
    assert not trace(language_model("additive"), IDS, "path").quantities


def test_what_is_no_quantity_is_refused_with_those_that_are() -> None:
    with pytest.raises(QuantityError, match=r"there is no quantity 'gate'; here are beta, .*; or core, audit, page"):
        trace(language_model("cc-ec"), IDS, ["beta", "gate"])
    with pytest.raises(KeyError, match=r"v: not asked for; there are beta"):
        trace(language_model("cc-ec"), IDS, "core")["v"]


def test_only_what_was_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass for a gate reads no state, builds no path and asks no head."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nobody asked for this")

    for target in (
        "ddl_model.quantities.step.Motion.state_norm",
        "ddl_model.quantities.head.Head.hidden",
        "ddl_model.quantities.depth.Depth.add",
        "ddl_model.quantities.depth.Depth.path",
    ):
        monkeypatch.setattr(target, refuse)
    trace(language_model("cc-ec"), IDS, "core")
    monkeypatch.undo()
    monkeypatch.setattr("ddl_model.quantities.depth.Depth.path", refuse)
    trace(language_model("cc-ec"), IDS, ["gram", "rewrite_of", "readout_alignment"])


def test_an_observer_is_measured_for_what_it_kept() -> None:
    model = language_model("cc-ec")
    config, observer = model.config.residual, Observer()
    with torch.no_grad():
        model(IDS, observer=observer)
    seen = measure(observer, config)
    assert "e_pre_norm" in seen
    assert not {"state_norm", "survival", "lens_kl", "logit_contrib"} & set(seen)
    with pytest.raises(QuantityError, match=r"no state_norm here: the observer kept no states; make it by Observer\("):
        measure(observer, config, "state_norm")
    with pytest.raises(QuantityError, match="no lens_kl here: only language models and image classifiers have a head"):
        measure(observer, config, ["lens_kl"])
    with pytest.raises(ValueError, match=r"has not seen 2\.attn; it has seen 0\.attn, 0\.mlp"):
        measure(observer, config, sites=["2.attn"])
    with pytest.raises(ValueError, match="the observer has seen no site: give it to a forward pass first"):
        measure(Observer(), config)


@pytest.mark.parametrize("name", LANGUAGE)
def test_both_ways_to_look_see_the_same(name: str) -> None:
    model, observer = language_model(name), Observer(keep_states=True)
    changes = [] if "additive" in name else [Intervention("drop_erase", sites=("0.mlp",)), Intervention("mean")]
    observer.interventions = tuple(changes)
    with torch.no_grad():
        model(IDS, observer=observer)
    measured = measure(observer, model.config.residual)
    seen = trace(model, IDS, "all", interventions=changes)
    assert set(measured) == {name for name in seen if CATALOGUE[name].family not in ("lens", "attribution")}
    for name, values in measured.items():
        close(values.detach(), seen[name], 1e-13)


def test_measuring_carries_gradients() -> None:
    model, observer = language_model("learned length"), Observer(keep_states=True)
    model(IDS, observer=observer)
    measure(observer, model.config.residual, ["survival", "update_norm"])["survival"].sum().backward()
    scale = model.blocks[0].attn.residual.normalise.log_scale.grad
    assert scale is not None
    assert float(scale.abs()) > 0


def test_trace_changes_nothing_and_keeps_no_graph() -> None:
    model = language_model("cc-ec")
    seen = trace(model, IDS, "all")
    assert torch.equal(seen.logits, model(IDS))
    assert not any(values.requires_grad for values in (seen.logits, *seen.values()))


def test_networks_and_sites_that_trace_does_not_know_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # callers must get the message, not the checker's
    perceptron = DeltaMLP(DeltaMLPConfig(labels=("a", "b"), inputs=3))
    with pytest.raises(
        ValueError, match=r"got DeltaMLP: run it with an Observer\(keep_states=True\), then use measure"
    ):
        trace(perceptron, torch.zeros(1, 3))  # type: ignore[arg-type]
    model = language_model("cc-ec")
    wrong = [Intervention("set", sites=("2.attn",)), Intervention("patch", betas={"2.attn": torch.ones(6)})]
    for intervention in wrong:
        with pytest.raises(ValueError, match=r"names the site '2\.attn'; there are 0\.attn, 0\.mlp, 1\.attn, 1\.mlp"):
            trace(model, IDS, interventions=[intervention])
    with pytest.raises(ValueError, match="interventions change gates, and an additive network has none"):
        trace(language_model("additive"), IDS, interventions=[Intervention("set", value=1.0)])


def test_the_perceptron_of_the_first_edition_is_measured() -> None:
    model, observer = DeltaMLP(DeltaMLPConfig(labels=("a", "b"), inputs=3)).eval(), Observer(keep_states=True)
    with torch.no_grad():
        model(torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)), observer)
    seen = measure(observer, model.config.residual)
    assert seen["survival"].shape == (4, 2, 5)
    assert float(seen["survival"].max()) <= 1 + 1e-5
