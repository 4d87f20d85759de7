"""Small networks in float64 under every rule, compressor, gate and direction; and a pass taken apart by hand."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ddl_model import (
    ImageClassifier,
    ImageClassifierConfig,
    Intervention,
    LanguageModel,
    Observer,
    ResidualConfig,
    StateConfig,
)
from tests.ddl_model.test_language_model import BASE, lively_model, residual, state
from tests.model_fixtures import lively

GROUPED = ResidualConfig(gate="grouped", gate_groups=3)
POOLED = ResidualConfig(
    direction="attention_pooled", direction_norm="learned_scale", gate="grouped", gate_groups=3, target_input="output"
)
LANGUAGE = {
    "cc-ec": state(expand="convolution"),
    "direct weights": state(channel_weights="direct", shared_compressor=False),
    "token compressor": state(compress="token"),
    "scalar state": state(value_channels=1, channel_weights="direct"),
    "scaled logits": replace(BASE, logits_scale=0.25),
    "grouped gate": replace(BASE, residual=GROUPED),
    "two gates for four channels": replace(
        state(value_channels=4, expand="convolution"), residual=ResidualConfig(gate="grouped", gate_groups=2)
    ),
    "exact directions": residual(direction_norm="exact"),
    "learned length": residual(direction_norm="learned_scale", direction_scale_init=1.4),
    "first edition": replace(BASE, residual=POOLED),
    "write only": residual(rule="write_only"),
    "write only, grouped gate": replace(BASE, residual=replace(GROUPED, rule="write_only")),
    "additive": residual(rule="additive"),
    "additive, scalar state": replace(
        BASE, residual=ResidualConfig(rule="additive"), state=StateConfig(value_channels=1)
    ),
}
IDS = torch.randint(0, 31, (2, 6), generator=torch.Generator().manual_seed(6))
IMAGES = ("delta", "write_only", "additive")


def language_model(name: str, seed: int = 0) -> LanguageModel:
    """Return one of the networks above; a learned length differs from site to site."""
    model = lively_model(LANGUAGE[name], seed)
    for module in model.modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if parameter_name == "log_scale":
                parameter.data = 0.5 * parameter.data.tanh()
    return model


def image_classifier(rule: str) -> ImageClassifier:
    """Return a classifier of 3 classes over 2 x 2 tokens."""
    config = ImageClassifierConfig(
        labels=("a", "b", "c"),
        image_height=6,
        image_width=6,
        stem_planes=(3, 3),
        width=8,
        layers=2,
        heads=2,
        feedforward_width=10,
        residual=ResidualConfig(rule=rule),  # type: ignore[arg-type]
        state=StateConfig(value_channels=3),
    )
    return lively(ImageClassifier(config), seed=0).double()


def pixels() -> Tensor:
    """Return two images."""
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Apart(NamedTuple):
    """A pass, site by site: states 0 to S, directions, and, with one column per value channel, the gates.

    `erase` and `write` are (S, b, t, dv): what multiplies k^T X and v. An addition is a write of its output.
    """

    states: list[Tensor]
    k: Tensor
    target: Tensor
    erase: Tensor
    write: Tensor
    logits: Tensor

    def shortcut(self, site: int, channel: int) -> Tensor:
        """Return A = I - beta k k^T of a site, as matrices (b, t, d, d), for one value channel."""
        k = self.k[site]
        eye = torch.eye(k.shape[-1], dtype=k.dtype)
        return eye - self.erase[site, ..., channel, None, None] * k.unsqueeze(-1) * k.unsqueeze(-2)

    def product(self, channel: int, first: int = 0) -> Tensor:
        """Multiply out A_{S-1} ... A_first."""
        width = self.k.shape[-1]
        matrix = torch.eye(width, dtype=self.k.dtype).expand(*self.k.shape[1:-1], width, width)
        for site in range(first, len(self.k)):
            matrix = self.shortcut(site, channel) @ matrix
        return matrix

    def parts(self) -> Tensor:
        """Return what is left of the first state and of each write, (S + 1, b, t, d, dv)."""
        channels = range(self.target.shape[-1])
        rows = [torch.stack([(self.product(c) @ self.states[0][..., c : c + 1])[..., 0] for c in channels], dim=-1)]
        for site in range(len(self.k)):
            written = self.k[site].unsqueeze(-1) * (self.write[site] * self.target[site]).unsqueeze(-2)
            left = [(self.product(c, site + 1) @ written[..., c : c + 1])[..., 0] for c in channels]
            rows.append(torch.stack(left, dim=-1))
        return torch.stack(rows)


def take_apart(model: LanguageModel | ImageClassifier, inputs: Tensor, *interventions: Intervention) -> Apart:
    """Run the model under a plain observer and write down what each site did, from the paper's formulas."""
    observer = Observer(interventions, keep_states=True)
    with torch.no_grad():
        logits = model(inputs, observer=observer)
    config = model.config.residual
    ks, targets, erases, writes = [], [], [], []
    after = None
    for site, raw in observer.directions.items():
        if config.rule == "additive":
            after = observer.additions[site].new_state
            ks.append(raw)
            one = torch.ones_like(after[..., 0, :])
            targets.append(one)
            erases.append(0 * one)
            writes.append(one)
            continue
        seen = observer.rewrites[site]
        after, target = seen.new_state, seen.target
        length = (raw.square().sum(-1, keepdim=True) + config.direction_eps**2).sqrt()
        if config.direction_norm == "exact":
            length = raw.square().sum(-1, keepdim=True).sqrt()
        scale = observer.normalises[site].scale.detach() if config.direction_norm == "learned_scale" else 1.0
        ks.append(scale * raw / length)
        targets.append(target)
        beta = seen.beta if seen.beta.ndim == 3 else seen.beta.unsqueeze(-1)
        beta = beta.repeat_interleave(target.shape[-1] // beta.shape[-1], dim=-1)
        keep_erase, keep_write = torch.ones_like(beta), torch.ones_like(beta)
        for intervention in interventions:
            if intervention.concerns(site):
                dropped = {"drop_erase": keep_erase, "drop_write": keep_write}.get(intervention.operation)
                if dropped is not None:
                    dropped[:, list(intervention.positions or range(beta.shape[1]))] = 0.0
        erases.append(beta * keep_erase * (config.rule == "delta"))
        writes.append(beta * keep_write)
    assert after is not None
    states = [*observer.states.values(), after]
    return Apart(states, *(torch.stack(rows) for rows in (ks, targets, erases, writes)), logits)  # type: ignore[arg-type]


def close(actual: Tensor, expected: Tensor, error: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, atol=error, rtol=error, equal_nan=True)
