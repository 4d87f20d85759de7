"""What an intervention did to the answer: divergence of the distributions, change of the loss, of words and logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.gates.head import divergence, log_softmax
from service.gates.interventions import apply
from service.gates.subject import Run, Subject
from service.gates.trace import final_states

Array = NDArray[np.float64]
Mode = Literal["rerun", "frozen"]


@dataclass(frozen=True, eq=False)
class Effect:
    """By position (a classifier has one): KL of the changed answer, of the loss, of the likeliest word and its logit.

    `delta_nll` is NaN where no next token is known, and None for a classifier.
    """

    kl_nats: Array
    delta_nll: Array | None
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    target_logit_delta: Array

    @property
    def top1_changed(self) -> NDArray[np.bool_]:
        """Where the likeliest word is another one."""
        return np.asarray(self.before != self.after)


def effect(logits: NDArray[Any], changed: NDArray[Any], tokens: Sequence[int] | None) -> Effect:
    """Compare two answers, (position, words) each."""
    first, second = log_softmax(logits), log_softmax(changed)
    before, after = first.argmax(-1), second.argmax(-1)
    loss = None
    if tokens is not None:
        loss = np.full(len(first), np.nan)
        following = np.array(tokens[1:], np.int64)
        places = np.arange(len(following))
        loss[: len(following)] = first[places, following] - second[places, following]
    rows = np.arange(len(before))
    moved = changed[rows, before].astype(np.float64) - logits[rows, before].astype(np.float64)
    kl = np.maximum(divergence(first, second), 0.0)  # rounding may leave it a little below
    return Effect(kl, loss, before, after, moved)


def nll(logits: NDArray[Any], tokens: Sequence[int] | None) -> float | None:
    """Return the mean loss over the tokens that follow another one; None where there are none."""
    if tokens is None or len(tokens) < 2:
        return None
    logprobs = log_softmax(logits)
    return float(-logprobs[np.arange(len(tokens) - 1), list(tokens[1:])].mean())


def frozen(subject: Subject, seen: Run, fields: NDArray[np.float32]) -> tuple[Run, NDArray[np.float32]]:
    """Return the direct effect of other gates: the run with them, and the logits that come of it.

    Directions, targets and all other gates are held, so each position stands alone.
    """
    head = subject.head
    assert head is not None
    beta = apply(fields, seen.outputs["beta"]).astype(np.float32)
    changed = Run(
        {**seen.outputs, "beta": beta}, seen.logits, seen.directions, seen.first, fields[..., 4], fields[..., 5]
    )
    states = final_states(subject, changed, range(beta.shape[1]))
    return changed, head.logits(head.hidden(states))


def as_json(found: Effect, mode: Mode) -> dict[str, Any]:
    """Return the effect as it is answered."""
    return {
        "mode": mode,
        "kl_nats": found.kl_nats,
        "delta_nll": found.delta_nll,
        "top1_changed": found.top1_changed,
        "target_logit_delta": found.target_logit_delta,
        "top1_before": found.before,
        "top1_after": found.after,
    }


def summary(found: Effect, position: int) -> dict[str, Any]:
    """Return the effect in a few numbers: means, and what happened at one position."""
    loss = found.delta_nll
    known = loss[np.isfinite(loss)] if loss is not None else np.array([])
    return {
        "kl_nats": float(found.kl_nats.mean()),
        "kl_last": float(found.kl_nats[position]),
        "delta_nll": float(known.mean()) if known.size else None,
        "top1_changed": float(found.top1_changed.mean()),
        "target_logit_delta": float(found.target_logit_delta[position]),
    }
