"""Gate values of one input, site by site and position by position."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import encode, json_response, top_predictions
from service.api.body import IMAGE, JSON, media_type, parse_base64, parse_json
from service.api.classify import inversion_warnings
from service.api.gates_schema import SCHEMA, GatesRequest
from service.api.state import Timing, in_worker, state_of
from service.bundle import Gates
from service.errors import CaptureUnavailable
from service.gates.quantities import PRESETS, QUANTITIES, find_quantities, unavailable
from service.gates.selection import Select, Selection, check_size, resolve
from service.gates.trace import Trace, position_count, run_trace
from service.image import pixels_from_image
from service.protocol.tensors import check_shape, count_nonfinite, from_json
from service.repository import Loaded
from service.settings import Settings

_TOP = 5


async def gates_meta(request: Request, name: str, version: str | None = None) -> Response:
    """Sites, quantities and limits of a model's gates.

    501 if the bundle was exported without gate outputs.
    """
    state = state_of(request)
    model = state.repository.get(name, version)
    gates = _gates(model)
    quantities = [
        {
            "name": quantity,
            "axes": row.axes,
            "unit": row.unit,
            "range": row.range,
            "definition": row.definition,
            "available": (reason := unavailable(quantity, gates)) is None,
            "reason": reason,
        }
        for quantity, row in QUANTITIES.items()
    ]
    return json_response(
        {
            "schema": SCHEMA,
            **_identity(model, gates),
            "value_channels": gates.value_channels,
            "direction_eps": gates.direction_eps,
            "value_map": gates.value_map.model_dump() if gates.value_map else None,
            "positions": {
                "kind": gates.positions.kind,
                "grid": gates.positions.grid,
                "count": position_count(model.manifest, gates),
            },
            "sites": [site.model_dump() for site in gates.sites],
            "quantities": quantities,
            "presets": PRESETS,
            "limits": {"json_cells": state.settings.json_cells, "max_rows": state.settings.max_rows},
        }
    )


async def trace_gates(request: Request, name: str) -> Response:
    """Run a model on an input and answer what its rewrites did, site by site and position by position.

    The body is JSON, or an image as it is: then every site and position of the preset `core` is answered.
    """
    timing = request.state.timing = Timing()
    state = state_of(request)
    model = state.repository.get(name)
    kind = media_type(request, JSON, IMAGE)
    body = await request.body()
    request_id = str(request.scope["state"]["request_id"])
    timing.mark("receive")

    def work() -> tuple[bytes, int]:
        timing.mark("queue")
        if kind == JSON:
            asked = parse_json(body, GatesRequest)
            state.repository.get(name, asked.version)
            plan = _of_request(model, asked, state.settings)
        else:
            plan = _of_image(model, body, Select(), "core", state.settings)
        timing.mark("decode")
        traces = run_trace(model.session, model.manifest, plan.gates, plan.feed, plan.selection, plan.quantities)
        timing.mark("model")
        answer, nonfinite = _answer(model, plan, traces)
        identity = {"schema": SCHEMA, "request_id": request_id, **_identity(model, plan.gates)}
        return encode({**identity, **answer, "timing_ms": timing.ms}), nonfinite

    encoded, nonfinite = await in_worker(request, work)
    if nonfinite:
        state.metrics.gates.nonfinite.labels(model.name, model.version).inc(nonfinite)
    return Response(encoded, media_type="application/json")


@dataclass(frozen=True)
class _Plan:
    """A request that was checked in full: what is left is to run it."""

    gates: Gates
    selection: Selection
    quantities: tuple[str, ...]
    feed: NDArray[np.float32]
    warnings: list[str]


def _of_request(model: Loaded, asked: GatesRequest, settings: Settings) -> _Plan:
    """Check a JSON request; the answer's size is known before the input's data are looked at."""
    if asked.inputs.image is not None:
        return _of_image(model, parse_base64(asked.inputs.image), asked.select, asked.quantities, settings)
    tensor = asked.inputs.tensor
    assert tensor is not None  # exactly one is given
    check_shape(model.manifest.graph.inputs[0], "FP32", tensor.shape, settings.max_rows)
    gates, selection, quantities = _choose(model, asked.select, asked.quantities, tensor.shape[0], settings)
    return _Plan(gates, selection, quantities, from_json("tensor", tensor.data, tensor.shape, "FP32"), [])


def _of_image(model: Loaded, image: bytes, select: Select, asked: str | list[str], settings: Settings) -> _Plan:
    """Check a request for one image."""
    gates, selection, quantities = _choose(model, select, asked, 1, settings)
    pixels = pixels_from_image(image, model.manifest.classification.image, settings.max_image_pixels)
    return _Plan(gates, selection, quantities, pixels.tensor, inversion_warnings(pixels))


def _choose(
    model: Loaded, select: Select, asked: str | list[str], rows: int, settings: Settings
) -> tuple[Gates, Selection, tuple[str, ...]]:
    gates = _gates(model)
    quantities = find_quantities(asked, gates)
    selection = resolve(select, gates, position_count(model.manifest, gates))
    check_size(selection, quantities, gates, rows, settings.json_cells, select)
    return gates, selection, quantities


def _answer(model: Loaded, plan: _Plan, traces: list[Trace]) -> tuple[dict[str, Any], int]:
    """Return the results with their sites and positions, and how many of its numbers are not finite."""
    results: list[dict[str, Any]] = []
    nonfinite = 0
    for trace in traces:
        tensors = {name: _tensor(name, values) for name, values in trace.quantities.items()}
        nonfinite += sum(tensor["nonfinite"] for tensor in tensors.values())
        top = top_predictions(trace.probabilities, model.manifest.classification.labels, _TOP)
        results.append({"tensors": tensors, "prediction": {"top": top}})
    note = f"{nonfinite} values are not finite and are given as null; see nonfinite of each tensor"
    positions = plan.gates.positions
    answer = {
        "sites": [site.model_dump() for site in plan.selection.sites],
        "positions": {"kind": positions.kind, "grid": positions.grid, "index": plan.selection.positions},
        "results": results,
        "warnings": [*plan.warnings, *([note] if nonfinite else [])],
    }
    return answer, nonfinite


def _tensor(name: str, values: NDArray[np.float32]) -> dict[str, Any]:
    row = QUANTITIES[name]
    return {
        "axes": row.axes,
        "shape": values.shape,
        "unit": row.unit,
        "range": row.range,
        "dtype": "f32",
        "nonfinite": count_nonfinite(values),
        "data": values,
    }


def _gates(model: Loaded) -> Gates:
    gates = model.manifest.gates
    if gates is None or not gates.outputs:
        raise CaptureUnavailable(f"{model.name!r} was exported without gate outputs; predictions work")
    return gates


def _identity(model: Loaded, gates: Gates) -> dict[str, Any]:
    return {
        "model": model.name,
        "version": model.version,
        "weights_sha256": model.manifest.weights_sha256,
        "update_rule": gates.update_rule,
        "dtype": "float32",
        "device": "cuda" if model.session.provider.startswith("CUDA") else "cpu",
        "tolerance": model.manifest.golden.tolerance,
    }
