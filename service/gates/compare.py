"""Two runs of one model beside each other: two inputs, two versions, or with and without interventions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidFields, UnprocessableRequest
from service.gates.answer import Left, changed_run, prediction, tensor
from service.gates.inputs import Bounds, token_echo
from service.gates.plan import Plan, make_plan, shared_positions
from service.gates.quantities import QUANTITIES
from service.gates.request import CompareRequest, GatesRequest
from service.gates.size import check_size
from service.gates.subject import Subject, run
from service.gates.trace import captured_for, compute, needs_look, needs_states


@dataclass(frozen=True, eq=False)
class ComparePlan:
    """A checked comparison: two plans, and which of their positions belong together."""

    sides: tuple[Plan, Plan]
    aligned: tuple[tuple[int, ...], tuple[int, ...]]
    half: bool


def plan_compare(subjects: Sequence[Subject], asked: CompareRequest, bounds: Bounds, *, binary: bool) -> ComparePlan:
    """Check a request.

    Raises:
        UnprocessableRequest: a field does not fit the model, or the two cannot be compared.
        CaptureUnavailable: a bundle lacks what the request needs.
        ResultTooLarge: the answer would be too large.
    """
    first, second = subjects
    if [site.name for site in first.gates.sites] != [site.name for site in second.gates.sites]:
        raise UnprocessableRequest("the two versions have different sites: there is nothing to subtract")
    if first.gates.value_channels != second.gates.value_channels:
        raise UnprocessableRequest("the two versions have different numbers of value channels")
    sides = []
    for subject, side in zip(subjects, asked.runs, strict=True):
        request = GatesRequest(
            inputs=side.inputs,
            select=asked.select.model_copy(update={"positions": "all"}),
            quantities=asked.quantities,
            interventions=side.interventions,
            output=asked.output,
        )
        plan = make_plan(subject, request, bounds, binary=binary)
        if len(plan.inputs) != 1:
            raise InvalidFields(f"runs: each takes one input, got {len(plan.inputs)}")
        if any("position" not in QUANTITIES[name].axes for name in plan.quantities) or needs_look(plan.quantities):
            raise InvalidFields("quantities: those of the lens are not compared")
        sides.append(plan)
    aligned = shared_positions(sides[0].inputs[0], sides[1].inputs[0])
    both = [plan.wanted for plan in sides]
    extents = (*both[0].extents, *both[1].extents)
    # A difference is as large as the smaller side at most. Of what is compared, all positions are answered.
    smaller = min(extents, key=lambda extent: extent.positions)
    whole = replace(both[0], extents=(*extents, smaller), runs=1, whole_positions=True)
    check_size(whole, bounds.json_cells, bounds.binary_cells, binary=binary)
    return ComparePlan((sides[0], sides[1]), aligned, asked.output.dtype == "f16")


def compare(subjects: Sequence[Subject], plan: ComparePlan, left: Left) -> dict[str, Any]:
    """Run both sides; differences are the first less the second, over the positions that belong together.

    Raises:
        ModelFailed: a graph did not run.
        DeadlinePassed: the time was over.
    """
    values: list[dict[str, NDArray[Any]]] = []
    runs = []
    for subject, side in zip(subjects, plan.sides, strict=True):
        one = side.inputs[0]
        states = needs_states(side.quantities)
        captured = tuple(sorted({*captured_for(side.quantities), "beta"}))
        seen = run(subject, one, captured, states=states, seconds=left())
        if side.asked.interventions:
            changes = side.asked.interventions
            seen, _ = changed_run(
                subject, one, seen, changes, side.patches[0], captured, left, states=states, mode="rerun"
            )
        values.append(compute(subject, seen, side.quantities, side.selections[0], None))
        runs.append(
            {
                "version": subject.bundle.folder.name,
                "weights_sha256": subject.manifest.weights_sha256,
                "tokens": token_echo(subject, one),
                "prediction": prediction(subject, seen.logits),
            }
        )
    tensors: dict[str, Any] = {}
    for name in values[0]:
        tensors[f"a/{name}"] = tensor(name, values[0][name], half=plan.half)
        tensors[f"b/{name}"] = tensor(name, values[1][name], half=plan.half)
        if not QUANTITIES[name].integer:
            tensors[f"difference/{name}"] = tensor(name, _difference(name, values, plan), half=plan.half) | {
                "range": (None, None)
            }
    alignment = {"a": plan.aligned[0], "b": plan.aligned[1]}
    return {"runs": runs, "alignment": alignment, "tensors": tensors, "warnings": list(plan.sides[0].warnings)}


def _difference(name: str, values: Sequence[dict[str, NDArray[Any]]], plan: ComparePlan) -> NDArray[Any]:
    axis = QUANTITIES[name].axes.index("position")
    first, second = (np.take(side[name], list(places), axis) for side, places in zip(values, plan.aligned, strict=True))
    return np.ascontiguousarray(first - second)
