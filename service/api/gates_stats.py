"""What the gates of ordinary traffic are like, and whether they have moved away from the reference's."""

from datetime import UTC, datetime
from typing import Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.gates_schema import SCHEMA, ReferenceStats
from service.api.state import state_of
from service.errors import CaptureUnavailable
from service.gates.drift import Judgement, alarm_sites
from service.gates.live.histograms import EDGES, REGIME_EDGES, REGIMES, Counts, quantile, regime_counts
from service.gates.live.live import LiveGates
from service.gates.live.windows import Slot, Window, parse_window
from service.gates.reference import Reference
from service.manifest.gates import Site, Sublayer
from service.repository import Loaded

QUANTILES = (0.05, 0.5, 0.95)


class SiteStats(Answer):
    """The gates of one site in the window: 64 bins on [0, 2]; `w1` is their distance from the reference, in beta."""

    name: str
    layer: int
    sublayer: Sublayer
    count: int
    mean: float | None
    quantiles: dict[str, float] | None
    regimes: list[float] | None
    histogram: list[int]
    reference_histogram: list[int] | None
    w1: float | None
    threshold: float | None
    status: Literal["ok", "moved", "no_reference", "too_few"]


class SlotStats(Answer):
    """A piece of the window; `regimes` over all sites, `w1` by site."""

    start: str
    seconds: int
    sequences: int
    tokens: int
    regimes: list[float] | None
    w1: list[float] | None


class GateStats(Answer):
    """Live statistics of a model's gates, from sampled traffic."""

    schema_: Literal["ddl.gates/1"] = Field(alias="schema")
    model: str
    version: str
    weights_sha256: str
    window: str
    since: str | None
    runs: int
    sequences: int
    tokens: int
    nonfinite: int
    edges: list[float]
    regime_names: list[str]
    regime_edges: list[float]
    status: Literal["ok", "watch", "drift", "no_reference", "too_few"]
    message: str
    status_since: str
    reference: ReferenceStats | None
    sites: list[SiteStats]
    history: list[SlotStats]


async def gates_stats(request: Request, name: str, window: str = "1h", version: str | None = None) -> Response:
    """Histograms, regimes and drift of the gates of ordinary traffic, by site.

    A window is 1m to 60m or 1h to 24h. `status` is of the window, `status_since` of the last hour's status. 501 if the
    model has no gates that could be looked at, or `gates_live_share` is 0.
    """
    model = state_of(request).repository.get(name, version)
    asked = parse_window(window)
    if model.live is None:
        raise CaptureUnavailable(
            f"{model.name!r} has no live statistics: it was exported without gate outputs, or gates_live_share is 0"
        )
    return json_response(_answer(model, model.live, asked))


def _answer(model: Loaded, live: LiveGates, window: Window) -> dict[str, object]:
    slots = live.slots(window)
    seen = live.window(window)
    judgement = live.judgement(seen)
    _, since = live.current()
    reference = live.reference
    return {
        "schema": SCHEMA,
        "model": model.name,
        "version": model.version,
        "weights_sha256": model.manifest.weights_sha256,
        "window": window.name,
        "since": _iso(slots[0].start) if slots else None,
        "runs": seen.runs,
        "sequences": seen.sequences,
        "tokens": seen.tokens,
        "nonfinite": seen.nonfinite,
        "edges": EDGES,
        "regime_names": REGIMES,
        "regime_edges": REGIME_EDGES,
        "status": judgement.status,
        "message": describe(judgement, live.gates.sites, reference, seen.sequences),
        "status_since": _iso(since),
        "reference": reference and told_reference(reference),
        "sites": [
            _site(site, seen.fine[site.index], float(seen.sums[site.index]), judgement, reference)
            for site in live.gates.sites
        ],
        "history": [_slot(slot, window.seconds, live) for slot in slots],
    }


def describe(judgement: Judgement, sites: tuple[Site, ...], reference: Reference | None, sequences: int) -> str:
    """Say in one sentence what the status means."""
    if judgement.status == "no_reference" or reference is None:
        return "The bundle has no reference.json, so nothing is compared: ddl-audit writes one."
    if judgement.w1 is None:
        return f"{sequences} sequences are too few to compare: {reference.windows[0]} of usual length are needed."
    moved = int(judgement.moved.sum())
    if not moved:
        return f"None of {len(sites)} sites moved by more than normal."
    largest = int(np.where(judgement.moved, judgement.w1, -1.0).argmax())
    alarm = "" if judgement.status == "drift" else f"; {alarm_sites(len(sites))} would be an alarm"
    name, distance = sites[largest].name, judgement.w1[largest]
    return f"{moved} of {len(sites)} sites moved by more than normal; largest {name}, {distance:.2g}{alarm}."


def _site(
    site: Site, fine: Counts, total: float, judgement: Judgement, reference: Reference | None
) -> dict[str, object]:
    count = int(fine.sum())
    compared = judgement.w1 is not None and judgement.thresholds is not None
    status: str = judgement.status
    if compared:
        status = "moved" if judgement.moved[site.index] else "ok"
    return {
        "name": site.name,
        "layer": site.layer,
        "sublayer": site.sublayer,
        "count": count,
        "mean": total / count if count else None,
        "quantiles": {str(q): quantile(fine, q) for q in QUANTILES} if count else None,
        "regimes": _fractions(regime_counts(fine)),
        "histogram": fine.tolist(),
        "reference_histogram": reference and list(reference.counts[site.index]),
        "w1": float(judgement.w1[site.index]) if judgement.w1 is not None else None,
        "threshold": float(judgement.thresholds[site.index]) if judgement.thresholds is not None else None,
        "status": status,
    }


def _slot(slot: Slot, seconds: int, live: LiveGates) -> dict[str, object]:
    judgement = live.judgement(slot)
    return {
        "start": _iso(slot.start),
        "seconds": seconds,
        "sequences": slot.sequences,
        "tokens": slot.tokens,
        "regimes": _fractions(regime_counts(slot.fine).sum(0)),
        "w1": judgement.w1.tolist() if judgement.w1 is not None else None,
    }


def told_reference(reference: Reference) -> dict[str, object]:
    """Return what a reference is of, without its counts."""
    data = reference.dataset
    return {
        "id": reference.id,
        "created": reference.created,
        "dataset": data.name,
        "sequences": data.sequences,
        "tokens": data.tokens,
    }


def _fractions(counts: Counts) -> list[float] | None:
    total = int(counts.sum())
    return (counts / total).tolist() if total else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
