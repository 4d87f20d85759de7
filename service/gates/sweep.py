"""One input under many interventions, of each only its effect: which gates does the answer depend on?

Variants are stacked as rows of one batch, as many at a time as their logits leave room for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidFields, ResultTooLarge
from service.gates import effect as effects
from service.gates.answer import Left, prediction
from service.gates.inputs import Bounds, read_inputs, token_echo
from service.gates.interventions import Intervention, Where, check, chosen_sites, overrides
from service.gates.plan import Patch, find_patches, require_frozen
from service.gates.request import MAX_VARIANTS, SweepRequest
from service.gates.subject import Input, Run, Subject, logits_of, run

_LOGITS = 8_000_000
"""Most numbers of logits that one batch of variants may make."""


@dataclass(frozen=True, eq=False)
class Variant:
    """Interventions, and the one site and value that they come from, if it is one."""

    interventions: list[Intervention]
    patches: dict[int, Patch]
    site: str | None = None
    value: float | None = None


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """A checked sweep."""

    asked: SweepRequest
    one: Input
    variants: tuple[Variant, ...]
    warnings: tuple[str, ...]


def plan_sweep(subject: Subject, asked: SweepRequest, bounds: Bounds) -> SweepPlan:
    """Check a request.

    Raises:
        UnprocessableRequest: a field does not fit the model.
        CaptureUnavailable: the bundle lacks what interventions need.
        ResultTooLarge: there are too many variants.
    """
    gates = subject.gates
    inputs, warnings = read_inputs(subject, asked.inputs, bounds)
    if len(inputs) != 1:
        raise InvalidFields(f"inputs: a sweep takes one input, got {len(inputs)}")
    named: list[tuple[list[Intervention], str | None, float | None]]
    if asked.variants is not None:
        named = [(variant, None, None) for variant in asked.variants]
    else:
        sites = chosen_sites(Where(sites=asked.sites), gates)
        named = [
            ([_set(value, gates.sites[site].name, asked)], gates.sites[site].name, value)
            for site in sites
            for value in asked.values
        ]
    if len(named) > MAX_VARIANTS:
        raise _too_many(len(named), asked)
    variants = []
    for interventions, site, value in named:
        check(interventions, gates)
        require_frozen(subject, interventions, asked.mode)
        patches = find_patches(subject, interventions, inputs[0], inputs, bounds)
        variants.append(Variant(interventions, patches, site, value))
    return SweepPlan(asked, inputs[0], tuple(variants), tuple(warnings))


def sweep(subject: Subject, plan: SweepPlan, left: Left) -> dict[str, Any]:
    """Run the input unchanged and under every variant.

    Raises:
        ModelFailed: the graph did not run.
        DeadlinePassed: the time was over.
    """
    one, is_frozen = plan.one, plan.asked.mode == "frozen"
    captured = ("beta", "k_raw_norm", "proj", "v") if is_frozen else ("beta",)
    base = run(subject, one, captured, states=is_frozen, seconds=left())
    fields = [_fields(subject, variant, base, left) for variant in plan.variants]
    found = []
    for variant, logits in zip(plan.variants, _answers(subject, one, base, fields, left, is_frozen), strict=True):
        found.append(
            {
                "site": variant.site,
                "value": variant.value,
                "interventions": None
                if variant.site is not None
                else [each.model_dump(by_alias=True, exclude_none=True) for each in variant.interventions],
                "effect": effects.summary(effects.effect(base.logits, logits, one.tokens), -1),
                "prediction": prediction(subject, logits),
            }
        )
    return {
        "mode": plan.asked.mode,
        "tokens": token_echo(subject, one),
        "baseline": {"prediction": prediction(subject, base.logits), "nll": effects.nll(base.logits, one.tokens)},
        "variants": found,
        "warnings": list(plan.warnings),
    }


def _answers(
    subject: Subject, one: Input, base: Run, fields: list[NDArray[np.float32]], left: Left, is_frozen: bool
) -> Iterator[NDArray[Any]]:
    if is_frozen:
        for each in fields:
            left()
            yield effects.frozen(subject, base, each)[1]
        return
    rows = max(1, _LOGITS // max(1, base.logits.size))
    for begin in range(0, len(fields), rows):
        yield from logits_of(subject, one, np.stack(fields[begin : begin + rows]), seconds=left())


def _fields(subject: Subject, variant: Variant, base: Run, left: Left) -> NDArray[np.float32]:
    others = {}
    for number, patch in variant.patches.items():
        beta = run(subject, patch.source, ("beta",), states=False, seconds=left()).outputs["beta"]
        others[number] = (patch.own, beta[:, list(patch.other)])
    return overrides(variant.interventions, subject.gates, base.outputs["beta"], others)[0]


def _set(value: float, site: str, asked: SweepRequest) -> Intervention:
    return Intervention(op="set", value=value, where=Where(sites=[site], positions=asked.positions))


def _too_many(count: int, asked: SweepRequest) -> ResultTooLarge:
    fits = max(1, MAX_VARIANTS // len(asked.values))
    patches: list[dict[str, Any]] = []
    if asked.variants is None and len(asked.values) > 1 and count // len(asked.values) <= MAX_VARIANTS:
        patches.append({"values": asked.values[:1]})
    if asked.variants is None and len(asked.values) <= MAX_VARIANTS:
        patches.append({"sites": list(range(fits))})
    return ResultTooLarge(
        f"the sweep would have {count} variants, at most {MAX_VARIANTS} are run at once",
        cells=count,
        limit_cells=MAX_VARIANTS,
        **{"try": patches},
    )
