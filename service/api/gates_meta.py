"""What can be asked of a model's gates."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import json_response
from service.api.gates_run import subject_of
from service.api.gates_schema import SCHEMA
from service.api.gates_stats import told_reference
from service.api.state import state_of
from service.errors import CaptureUnavailable
from service.gates.interventions import OPERATIONS
from service.gates.quantities import PRESETS, QUANTITIES, defined, streams, unavailable
from service.gates.reductions import EDGES, REGIMES
from service.gates.request import MAX_BATCH, MAX_VARIANTS
from service.gates.subject import Subject
from service.repository import Loaded


async def gates_meta(request: Request, name: str, version: str | None = None) -> Response:
    """Sites, quantities and limits of a model's gates.

    Quantities that the model's update rule does not have are not listed. 501 if the bundle was exported without gate
    outputs.
    """
    state = state_of(request)
    model = state.repository.get(name, version)
    subject = subject_of(state, model)
    gates, settings = subject.gates, state.settings
    over_tokens = subject.over_tokens
    quantities = [
        {
            "name": quantity,
            "axes": row.axes,
            "unit": row.unit,
            "range": row.range,
            "definition": row.definition,
            "cost": row.cost,
            "available": (reason := unavailable(quantity, gates, over_tokens=over_tokens)) is None,
            "reason": reason,
            "streams": streams(quantity),
        }
        for quantity, row in QUANTITIES.items()
        if defined(quantity, gates)
    ]
    here = {row["name"] for row in quantities if row["available"]}
    reason = None if gates.overrides else "the bundle was exported without inputs that change gates"
    operations = [op for op in OPERATIONS if op != "drop_erase" or gates.update_rule == "delta"]
    return json_response(
        {
            "schema": SCHEMA,
            **identity(model, subject),
            "task": subject.manifest.task.kind,
            "labels": subject.labels,
            "has_tokenizer": subject.tokenizer is not None,
            "vocabulary": subject.vocabulary,
            "value_channels": gates.value_channels,
            "value_grid": _value_grid(subject),
            "direction_eps": gates.direction_eps,
            "value_map": gates.value_map.model_dump() if gates.value_map else None,
            "positions": {
                "kind": gates.positions.kind,
                "grid": gates.positions.grid,
                "count": _count(subject),
            },
            "sites": [site.model_dump() for site in gates.sites],
            "quantities": quantities,
            "presets": {preset: [name for name in names if name in here] for preset, names in PRESETS.items()},
            "regimes": {"names": REGIMES, "edges": EDGES},
            "interventions": {"available": reason is None, "reason": reason, "ops": operations},
            "reference": _reference(model),
            "limits": {
                "json_cells": settings.json_cells,
                "binary_cells": settings.binary_cells,
                "max_positions": settings.gates_positions,
                "max_batch": MAX_BATCH,
                "max_variants": MAX_VARIANTS,
            },
        }
    )


def identity(model: Loaded, subject: Subject) -> dict[str, Any]:
    """Return which model answers, and how exactly."""
    return {
        "model": model.name,
        "version": model.version,
        "weights_sha256": model.manifest.weights_sha256,
        "update_rule": subject.gates.update_rule,
        "dtype": "float32",
        "device": "cuda" if model.session.provider.startswith("CUDA") else "cpu",
        "tolerance": model.manifest.golden.tolerance,
    }


def _reference(model: Loaded) -> dict[str, Any] | None:
    if model.reference is None:
        return None
    return {**told_reference(model.reference), "histograms": model.reference.counts}


def _value_grid(subject: Subject) -> tuple[int, int] | None:
    """Return rows and columns of the value channels, where they are places of a picture; later stages halve them."""
    if subject.gates.positions.kind != "image":
        return None
    high, wide = subject.manifest.graph.inputs[0].shape[-2:]
    grids = ((-(-high // step), -(-wide // step)) for step in (1, 2, 4, 8))
    return next((grid for grid in grids if grid[0] * grid[1] == subject.gates.value_channels), None)


def _count(subject: Subject) -> int | None:
    try:
        return subject.fixed_positions
    except CaptureUnavailable:
        return None
