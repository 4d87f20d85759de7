"""One run of an audit: histograms of every quantity, the loss of every sequence, what interventions do to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ddl_model.audit.bins import AUDITED, BETA_BINS
from ddl_model.audit.data import DataSet
from ddl_model.audit.plan import Run
from ddl_model.checkpoint import build_model
from ddl_model.image_classifier import ImageClassifier
from ddl_model.interventions import Intervention
from ddl_model.language_model import LanguageModel
from ddl_model.observe import Observer, site_names
from ddl_model.quantities import CATALOGUE, trace

Progress = Callable[[int], None]
"""Told how many sequences were run."""


@dataclass
class Measured:
    """What a run came to.

    `histograms` are (site, bin), `sums` (site, 3): count, sum and sum of squares of the finite values; quantities
    without a site have one row. `beta_counts` is (sequence, site, bin). `losses` holds the mean nats of each sequence
    of the plain run, `interventions` those of the first sequences under each intervention.
    """

    sites: tuple[str, ...]
    losses: Tensor
    correct: float
    histograms: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    beta_counts: Tensor | None = None
    interventions: dict[str, Tensor] = field(default_factory=dict)


def intervention_plan(run: Run, wanted: Sequence[str]) -> dict[str, Intervention]:
    """Return the interventions by name, `per_site=0` as one for each site; an additive network has none."""
    if run.rule == "additive":
        return {}
    known = {
        "all=0": Intervention("set", 0.0),
        "all=1": Intervention("set", 1.0),
        "clamp<=1": Intervention("clamp", high=1.0),
        "site_mean": Intervention("mean"),
    }
    if run.rule == "delta":
        known["drop_erase"] = Intervention("drop_erase")
    plan = {name: known[name] for name in wanted if name in known}
    if "per_site=0" in wanted:
        plan |= {f"{site}=0": Intervention("set", 0.0, sites=(site,)) for site in site_names(run.config.layers)}
    return plan


def count_sequences(run: Run, data: DataSet, wanted: Sequence[str], sample: int) -> int:
    """Return how many sequences `measure_run` will run."""
    return len(data) + min(sample, len(data)) * len(intervention_plan(run, wanted))


@torch.no_grad()
def measure_run(run: Run, data: DataSet, wanted: Sequence[str], sample: int, told: Progress) -> Measured:
    """Run a checkpoint over the data, and over the first `sample` sequences under each wanted intervention."""
    model = build_model(run.checkpoint).eval()
    assert isinstance(model, LanguageModel | ImageClassifier)
    names = [name for name in AUDITED if run.rule in CATALOGUE[name].rules]
    sites = tuple(site_names(run.config.layers))
    measured = Measured(sites, torch.empty(0), 0.0)
    losses, beta_counts = [], []
    for inputs, labels in data.batches(run):
        traced = trace(model, inputs, names)
        for name in names:
            values = traced[name]
            by_site = values.flatten(1) if CATALOGUE[name].axes[0] == "site" else values.flatten().unsqueeze(0)
            _count(measured, name, by_site)
            if name == "beta":
                beta_counts.append(_by_sequence(values.flatten(2)))
        losses.append(_losses(traced.logits, labels))
        measured.correct += float((traced.logits.argmax(-1) == labels).double().mean(-1).sum())
        told(len(inputs))
    measured.losses = torch.cat(losses)
    measured.correct /= len(data)
    if beta_counts:
        measured.beta_counts = torch.cat(beta_counts)
    for name, intervention in intervention_plan(run, wanted).items():
        changed = []
        for inputs, labels in data.batches(run, sample):
            changed.append(_losses(model(inputs, observer=Observer([intervention])), labels))
            told(len(inputs))
        measured.interventions[name] = torch.cat(changed)
    return measured


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean nats of each sequence."""
    if logits.ndim == 2:
        return F.cross_entropy(logits.double(), labels.long(), reduction="none")
    return F.cross_entropy(logits.double().mT, labels.long(), reduction="none").mean(-1)


def _count(measured: Measured, name: str, values: Tensor) -> None:
    """Add values (site, n) to the histograms and sums of a quantity."""
    bins, sites = AUDITED[name], len(values)
    if name not in measured.histograms:
        measured.histograms[name] = torch.zeros(sites, bins.count, dtype=torch.int64)
        measured.sums[name] = torch.zeros(sites, 3, dtype=torch.float64)
        measured.nonfinite[name] = 0
    finite = values.isfinite()
    measured.nonfinite[name] += int((~finite).sum())
    row = torch.arange(sites).unsqueeze(-1).expand_as(values)[finite]
    flat = values[finite].double()
    places = row * bins.count + bins.index(flat)
    measured.histograms[name] += torch.bincount(places, minlength=sites * bins.count).view(sites, bins.count)
    for column, weights in enumerate((torch.ones_like(flat), flat, flat.square())):
        measured.sums[name][:, column] += torch.bincount(row, weights, minlength=sites)


def _by_sequence(beta: Tensor) -> Tensor:
    """Return (sequence, site, bin) counts of gates (site, row, n)."""
    sites, rows, _ = beta.shape
    finite = beta.isfinite()
    place = torch.arange(rows).view(1, -1, 1) * sites + torch.arange(sites).view(-1, 1, 1)
    index = place.expand_as(beta)[finite] * BETA_BINS + AUDITED["beta"].index(beta[finite])
    return torch.bincount(index, minlength=rows * sites * BETA_BINS).view(rows, sites, BETA_BINS).int()
