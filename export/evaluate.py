"""What low precision costs: a bundle's answers beside torch's in float32, on the same images or tokens."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from export.graph import LOGITS
from export.kind import HeldOut, Kind
from service.bundle import PrecisionCost
from service.runtime.session import Session

_CELLS = 2**25
"""Logits that are looked at together: 128 MiB in float32."""


@dataclass(frozen=True)
class Limits:
    """How much a bundle of low precision may lose.

    `max_loss_increase` is in nats per image or token: 0.05 make the perplexity of a text 5 % larger. `min_agreement`
    is the share of answers whose most probable class or token stays the same.
    """

    max_loss_increase: float = 0.05
    min_agreement: float = 0.85

    def excess(self, cost: PrecisionCost) -> str | None:
        """Say in figures how a cost is beyond the limits, naming the flags that move them, or None."""
        found = []
        if cost.loss_increase > self.max_loss_increase:
            name = "the loss rises by" if cost.metrics else "the answers diverge by"
            found.append(
                f"{name} {cost.loss_increase:.4f} nats, at most {self.max_loss_increase:g} are allowed "
                "(--max-loss-increase)"
            )
        if cost.agreement < self.min_agreement:
            found.append(
                f"{cost.agreement:.1%} of the answers stay the same, at least {self.min_agreement:.1%} must "
                "(--min-agreement)"
            )
        return "; ".join(found) or None


def evaluate(session: Session, kind: Kind, held_out: HeldOut) -> PrecisionCost | None:
    """Measure a bundle's main graph on held-out inputs; None if it answers with what is not a number."""
    sums: defaultdict[str, float] = defaultdict(float)
    with torch.inference_mode():
        for batch in held_out.batches:
            inputs, labels = batch()
            answers = held_out.classes * (inputs.shape[1] if held_out.unit == "tokens" else 1)
            for rows in torch.arange(len(inputs)).split(max(1, _CELLS // answers)):
                given = torch.from_numpy(session.run({kind.input: inputs[rows].numpy()}, [LOGITS])[LOGITS])
                wanted = kind.logits(inputs[rows])
                of_rows = None if labels is None else labels[rows].flatten().long()
                measured = _measure(given.flatten(0, -2), wanted.flatten(0, -2), of_rows, held_out.token_bytes)
                for name, value in measured.items():
                    sums[name] += value
    if not math.isfinite(sum(sums.values())):
        return None
    return PrecisionCost(
        data=held_out.data,
        unit=held_out.unit,
        count=int(sums["count"]),
        agreement=sums["agreed"] / sums["count"],
        divergence=max(0.0, sums["divergence"] / sums["count"]),  # sums of rounded numbers may fall below
        metrics=_metrics(sums, "given"),
        float32_metrics=_metrics(sums, "wanted"),
    )


def _measure(given: Tensor, wanted: Tensor, labels: Tensor | None, token_bytes: Tensor | None) -> dict[str, float]:
    """Return sums over answers (n, classes) that count; those with a label below 0 do not."""
    if labels is not None:
        counted = labels >= 0
        given, wanted, labels = given[counted], wanted[counted], labels[counted]
    seen, exact = F.log_softmax(given.float(), -1), F.log_softmax(wanted.float(), -1)
    sums = {
        "count": float(len(given)),
        "agreed": float((given.argmax(-1) == wanted.argmax(-1)).sum()),
        "divergence": float((exact.exp() * (exact - seen)).sum(dtype=torch.float64)),
    }
    if labels is not None:
        for name, logarithms in (("given", seen), ("wanted", exact)):
            sums[f"{name} nats"] = float(F.nll_loss(logarithms.double(), labels, reduction="sum"))
            sums[f"{name} right"] = float((logarithms.argmax(-1) == labels).sum())
        if token_bytes is not None:
            sums["bytes"] = float(token_bytes[labels].sum())
    return sums


def _metrics(sums: Mapping[str, float], name: str) -> dict[str, float]:
    """Return what the sums say of one side; nothing where there were no labels."""
    if f"{name} nats" not in sums:
        return {}
    nats = sums[f"{name} nats"]
    metrics = {"loss": nats / sums["count"], "accuracy": sums[f"{name} right"] / sums["count"]}
    if sums.get("bytes"):
        metrics["bits_per_byte"] = nats / math.log(2) / sums["bytes"]
    return metrics
