"""The lens says at every site what a network that ends there says."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ddl_model import ImageClassifier, Intervention, LanguageModel, Trace, trace
from ddl_model.quantities import QuantityError
from tests.ddl_model.quantities.networks import IDS, IMAGES, LANGUAGE, close, image_classifier, language_model, pixels

LENS = ["lens_topk", "lens_kl", "lens_entropy", "lens_target_logprob", "lens_target_rank"]
CHANGES = {
    "as it is": (),
    "changed": (Intervention("set", value=1.8, sites=("0.mlp",), positions=(2, 3)), Intervention("drop_erase")),
}


def shortened(model: LanguageModel | ImageClassifier, sites: int) -> LanguageModel | ImageClassifier:
    """Return the network that ends after so many sites: a block that is cut has a feed-forward that says nothing."""
    short = copy.deepcopy(model)
    short.blocks = nn.ModuleList(list(short.blocks)[: (sites + 1) // 2])
    return short


def logprobs(model: LanguageModel | ImageClassifier, inputs: Tensor, *changes: Intervention) -> Tensor:
    """Return the distributions that the network gives, (b, positions, words)."""
    found = trace(model, inputs, [], interventions=changes).logits.log_softmax(-1)
    return found if found.ndim == 3 else found.unsqueeze(1)


def check(seen: Trace, site: int, words: Tensor, final: Tensor, target: Tensor) -> None:
    close(
        seen["lens_topk_logprob"][site], words.sort(dim=-1, descending=True).values[..., : seen["lens_topk"].shape[-1]]
    )
    close(words.gather(-1, seen["lens_topk"][site]), seen["lens_topk_logprob"][site])
    close(seen["lens_kl"][site], (final.exp() * (final - words)).sum(-1))
    close(seen["lens_entropy"][site], -(words.exp() * words).sum(-1))
    of_target = words.gather(-1, target.clamp_min(0).unsqueeze(-1))
    there = target >= 0
    close(seen["lens_target_logprob"][site][there], of_target.squeeze(-1)[there])
    assert torch.equal(seen["lens_target_rank"][site][there], (words > of_target).sum(-1)[there])
    assert bool(seen["lens_target_logprob"][site][~there].isnan().all())
    assert bool((seen["lens_target_rank"][site][~there] == -1).all())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LANGUAGE)
def test_each_site_speaks_as_the_network_that_ends_there(name: str, change: str) -> None:
    model = language_model(name)
    changes = () if model.config.residual.rule == "additive" else CHANGES[change]
    seen = trace(model, IDS, LENS, interventions=changes, targets="next", top_k=7)
    final = logprobs(model, IDS, *changes)
    target = torch.cat([IDS[:, 1:], torch.full((2, 1), -1)], dim=1)
    assert torch.equal(seen.targets[..., 0], target)
    for layer in range(2):
        words = logprobs(shortened(model, 2 * layer + 2), IDS, *changes)
        check(seen, 2 * layer + 1, words, final, target)
    assert float(seen["lens_kl"][0].min()) > 0
    assert float(seen["lens_kl"][-1].abs().max()) < 1e-12


@pytest.mark.parametrize("rule", IMAGES)
def test_a_classifier_s_lens_is_of_the_whole_image(rule: str) -> None:
    model = image_classifier(rule)
    classes = torch.tensor([2, 0])
    seen = trace(model, pixels(), LENS, targets=classes)
    final = logprobs(model, pixels())
    for layer in range(2):
        check(seen, 2 * layer + 1, logprobs(shortened(model, 2 * layer + 2), pixels()), final, classes.unsqueeze(-1))
    assert float(seen["lens_kl"][-1].abs().max()) < 1e-12


@torch.no_grad()
def test_after_attention_the_lens_is_the_head_on_that_state() -> None:
    model = language_model("cc-ec")
    seen = trace(model, IDS, LENS)
    states: list[Tensor] = []
    hook = model.blocks[1].mlp.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    final = model(IDS).log_softmax(-1)
    hook.remove()
    normed = model.final_norm(model.final_compress(states[0]))
    words = (normed @ model.embedding.weight.T).log_softmax(-1)
    check(seen, 2, words, final, final.argmax(-1))


def test_targets_are_the_model_s_words_the_next_ones_or_any() -> None:
    model = language_model("cc-ec")
    seen = trace(model, IDS, LENS)
    assert torch.equal(seen.targets, model(IDS).argmax(-1, keepdim=True))
    assert bool((seen["lens_target_rank"][-1] == 0).all())
    several = torch.stack([torch.full_like(IDS, 4), torch.full_like(IDS, -1)], dim=-1)
    assert torch.equal(
        trace(model, IDS, LENS, targets=several)["lens_target_rank"],
        trace(model, IDS, LENS, targets=several[..., 0])["lens_target_rank"],
    )


def test_targets_that_are_none_are_named() -> None:
    model, images = language_model("cc-ec"), image_classifier("delta")
    for targets, message in (
        ("last", "targets must be 'predicted', 'next' or ids, got 'last'"),
        (
            torch.zeros(2, 5, dtype=torch.int64),
            r"ids of shape \(2, 6\) or \(2, 6, n\), got torch.int64 of shape \(2, 5\)",
        ),
        (torch.zeros(2, 6), r"ids of shape \(2, 6\) or \(2, 6, n\), got torch.float32"),
        (torch.full((2, 6), 31), "ids below 31, or -1 for none"),
        (torch.full((2, 6), -2), "ids below 31, or -1 for none"),
    ):
        with pytest.raises(QuantityError, match=message):
            trace(model, IDS, LENS, targets=targets)
    with pytest.raises(QuantityError, match="targets must be 'predicted' or ids, got 'next'"):
        trace(images, pixels(), LENS, targets="next")
    for top_k in (0, 32):
        with pytest.raises(QuantityError, match=f"top_k must be between 1 and the 31 words of the model, got {top_k}"):
            trace(model, IDS, LENS, top_k=top_k)
