"""Run a planned trace and say what came out, as plain values with arrays in them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gates import effect as effects
from service.gates.head import choose_targets, log_softmax
from service.gates.inputs import token_echo, word
from service.gates.interventions import Intervention, overrides
from service.gates.plan import Patch, Plan
from service.gates.quantities import QUANTITIES
from service.gates.reductions import keeps_tensors, reduce_all
from service.gates.subject import Input, Run, Subject, run
from service.gates.trace import Look, captured_for, compute, needs_states

_TOP = 5
Left = Callable[[], float | None]
"""Tells how many seconds are left; it raises when there are none."""


def answer(subject: Subject, plan: Plan, left: Left) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the results, one for each input, and warnings.

    Raises:
        ModelFailed: the graph did not run.
        DeadlinePassed: the time was over.
    """
    results = [_result(subject, plan, index, left) for index in range(len(plan.inputs))]
    nonfinite = sum(count_nonfinite(result) for result in results)
    note = f"{nonfinite} values are not finite and are given as null; see nonfinite of each tensor"
    return results, [*plan.warnings, *([note] if nonfinite else [])]


def count_nonfinite(result: Mapping[str, Any]) -> int:
    """Return how many numbers of a result's tensors are not finite."""
    return sum(tensor["nonfinite"] for tensor in result["tensors"].values())


def changed_run(
    subject: Subject,
    one: Input,
    base: Run,
    interventions: list[Intervention],
    patches: Mapping[int, Patch],
    captured: tuple[str, ...],
    left: Left,
    *,
    states: bool,
    mode: effects.Mode,
) -> tuple[Run, dict[str, Any]]:
    """Return the run with interventions, and what they were applied to."""
    others = {
        number: (patch.own, run(subject, patch.source, ("beta",), states=False, seconds=left()).outputs["beta"])
        for number, patch in patches.items()
    }
    others = {number: (own, beta[:, list(patches[number].other)]) for number, (own, beta) in others.items()}
    fields, touched = overrides(interventions, subject.gates, base.outputs["beta"], others)
    if mode == "frozen":
        changed, logits = effects.frozen(subject, base, fields)
        changed = Run(changed.outputs, logits, changed.directions, changed.first, changed.erase, changed.write)
    else:
        changed = run(subject, one, captured, states=states, overrides=fields, seconds=left())
    before, after = base.outputs["beta"][touched], changed.outputs["beta"][touched]
    applied = {
        "cells": int(touched.sum()),
        "sites": int(touched.any(1).sum()),
        "beta_before_mean": float(before.mean()) if before.size else None,
        "beta_after_mean": float(after.mean()) if after.size else None,
    }
    return changed, applied


def prediction(subject: Subject, logits: NDArray[Any]) -> dict[str, Any]:
    """Return the likeliest words after the last position, or the likeliest classes."""
    logprobs = log_softmax(logits[-1])
    order = np.argsort(-logprobs, kind="stable")[:_TOP]
    if subject.labels is not None:
        labels = subject.labels
        top = [{"label": labels[i], "index": int(i), "probability": np.float32(np.exp(logprobs[i]))} for i in order]
        return {"position": None, "top": top}
    words = [{"id": int(i), "text": word(subject.tokenizer, int(i)), "logprob": np.float32(logprobs[i])} for i in order]
    return {"position": len(logits) - 1, "top": words}


def tensor(name: str, values: NDArray[Any], *, half: bool = False) -> dict[str, Any]:
    """Return a quantity with what it is."""
    row = QUANTITIES[name]
    kind = "i32" if row.integer else "f16" if half else "f32"
    with np.errstate(over="ignore"):
        data = values.astype(np.float16) if kind == "f16" else values
    return {
        "axes": row.axes,
        "shape": values.shape,
        "unit": row.unit,
        "range": row.range,
        "dtype": kind,
        "nonfinite": 0 if row.integer else int(np.count_nonzero(~np.isfinite(data))),
        "data": data,
    }


def _result(subject: Subject, plan: Plan, index: int, left: Left) -> dict[str, Any]:
    one, selection, asked = plan.inputs[index], plan.selections[index], plan.asked
    changes = bool(asked.interventions)
    frozen = asked.mode == "frozen"
    states = needs_states(plan.quantities) or (changes and frozen)
    names = set(captured_for(plan.quantities)) | ({"beta"} if changes else set())
    captured = tuple(sorted(names | ({"proj", "v", "k_raw_norm"} if changes and frozen else set())))
    base = run(subject, one, captured, states=states, seconds=left())
    echo = token_echo(subject, one) if asked.output.tokens else None
    words = None if echo is None else echo["text"]
    found: dict[str, Any] = {"tokens": echo, "positions": selection.positions}
    shown, baseline, effect = base, None, None
    if changes:
        shown, applied = changed_run(
            subject,
            one,
            base,
            asked.interventions,
            plan.patches[index],
            captured,
            left,
            states=states,
            mode=asked.mode,
        )
        effect = effects.as_json(effects.effect(base.logits, shown.logits, one.tokens), asked.mode)
        effect["applied"] = applied
        effect["words"] = _words(subject, {*effect["top1_before"].tolist(), *effect["top1_after"].tolist()})
    look = _look(subject, plan, index, base)
    values = compute(subject, shown, plan.quantities, selection, look)
    half = asked.output.dtype == "f16"
    keep = keeps_tensors(asked.reduce)
    found["tensors"] = {name: tensor(name, array, half=half) for name, array in values.items()} if keep else {}
    found["reductions"] = reduce_all(asked.reduce, values, selection, words)
    found["prediction"] = prediction(subject, shown.logits)
    if changes:
        before = compute(subject, base, plan.quantities, selection, look)
        tensors = {name: tensor(name, array, half=half) for name, array in before.items()} if keep else {}
        baseline = {"prediction": prediction(subject, base.logits), "tensors": tensors}
    found["lens"] = None if look is None else _told(subject, look, values)
    return {**found, "baseline": baseline, "effect": effect}


def _look(subject: Subject, plan: Plan, index: int, base: Run) -> Look | None:
    """Return where the lens looks; what is `predicted` is so by the unchanged run."""
    places = plan.lens_positions[index]
    if places is None:
        return None
    targets = choose_targets(plan.lens.targets, places, base.logits[list(places)], plan.inputs[index].tokens)
    return Look(places, targets, plan.lens.top_k)


def _told(subject: Subject, look: Look, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return where the lens looked, and the text of every word that it saw."""
    ids = set(look.targets[look.targets >= 0].tolist())
    ids |= set(values["lens_topk"].ravel().tolist()) if "lens_topk" in values else set()
    head = subject.head
    bias = None if head is None or head.bias is None else head.bias[look.targets[0]]
    return {"positions": look.positions, "targets": look.targets, "words": _words(subject, ids), "bias": bias}


def _words(subject: Subject, ids: set[int]) -> dict[str, str | None]:
    labels = subject.labels
    return {str(i): labels[i] if labels is not None else word(subject.tokenizer, i) for i in sorted(ids)}
