"""Gate values of inputs, site by site and position by position: as they are, under interventions, beside others."""

import base64
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import encode
from service.api.body import IMAGE, JSON, media_type, parse_json
from service.api.gates_meta import identity
from service.api.gates_run import Deadline, bounds_of, counted, in_trace, subject_of
from service.api.gates_schema import SCHEMA
from service.api.state import Timing, state_of
from service.gates.answer import answer, count_nonfinite
from service.gates.body import MEDIA_TYPE, as_safetensors
from service.gates.compare import compare, plan_compare
from service.gates.plan import make_plan
from service.gates.request import CompareRequest, GatesInputs, GatesRequest, SweepRequest
from service.gates.subject import Subject
from service.gates.sweep import plan_sweep, sweep
from service.repository import Loaded

Asked = GatesRequest | SweepRequest | CompareRequest
Work = Callable[[list[tuple[Loaded, Subject]], Deadline, Timing], dict[str, Any]]


@counted
async def trace_gates(request: Request, name: str) -> Response:
    """Run a model on inputs and answer what its rewrites did, site by site and position by position.

    The body is JSON, or an image as it is: then every site and position of the preset `core` is answered. The answer
    is JSON, or safetensors if the request's `output.format` or its header Accept says so. Several texts are several
    results, each of its own length. With interventions, both runs are answered, and the effect.
    """
    body, timing = await _begin(request, name)
    if media_type(request, JSON, IMAGE) == JSON:
        asked = parse_json(body, GatesRequest)
    else:
        asked = GatesRequest(inputs=GatesInputs(image=base64.b64encode(body).decode()))
    binary = _is_binary(request, asked)
    bounds = bounds_of(state_of(request).settings)

    def work(models: list[tuple[Loaded, Subject]], deadline: Deadline, timing: Timing) -> dict[str, Any]:
        _, subject = models[0]
        plan = make_plan(subject, asked, bounds, binary=binary)
        timing.mark("decode")
        results, warnings = answer(subject, plan, deadline.left)
        timing.mark("model")
        positions = subject.gates.positions
        return {
            "sites": [site.model_dump() for site in plan.selections[0].sites],
            "positions": {"kind": positions.kind, "grid": positions.grid},
            "results": results,
            "warnings": warnings,
        }

    return await _run(request, name, [asked.version], asked, work, timing, binary=binary)


@counted
async def sweep_gates(request: Request, name: str) -> Response:
    """Run one input under many interventions and answer what each does to the prediction.

    Without `variants`, each site is set to each of `values` in turn.
    """
    body, timing = await _begin(request, name)
    media_type(request, JSON)
    asked = parse_json(body, SweepRequest)
    bounds = bounds_of(state_of(request).settings)

    def work(models: list[tuple[Loaded, Subject]], deadline: Deadline, timing: Timing) -> dict[str, Any]:
        _, subject = models[0]
        plan = plan_sweep(subject, asked, bounds)
        timing.mark("decode")
        found = sweep(subject, plan, deadline.left)
        timing.mark("model")
        return {"sites": [site.model_dump() for site in subject.gates.sites], **found}

    return await _run(request, name, [asked.version], asked, work, timing, binary=False)


@counted
async def compare_gates(request: Request, name: str) -> Response:
    """Run two inputs, or two versions of a model, and answer the quantities of both and their difference.

    Differences are over the positions that hold equal tokens from both ends; what has no partner is never stretched.
    """
    body, timing = await _begin(request, name)
    media_type(request, JSON)
    asked = parse_json(body, CompareRequest)
    binary = _is_binary(request, asked)
    bounds = bounds_of(state_of(request).settings)

    def work(models: list[tuple[Loaded, Subject]], deadline: Deadline, timing: Timing) -> dict[str, Any]:
        subjects = [subject for _, subject in models]
        plan = plan_compare(subjects, asked, bounds, binary=binary)
        timing.mark("decode")
        found = compare(subjects, plan, deadline.left)
        timing.mark("model")
        return {"sites": [site.model_dump() for site in plan.sides[0].selections[0].sites], **found}

    return await _run(request, name, [side.version for side in asked.runs], asked, work, timing, binary=binary)


async def _begin(request: Request, name: str) -> tuple[bytes, Timing]:
    """Read the body; an unknown model is told before anything that is wrong with it."""
    state_of(request).repository.get(name)
    timing = request.state.timing = Timing()
    body = await request.body()
    timing.mark("receive")
    return body, timing


async def _run(
    request: Request,
    name: str,
    versions: list[str | None],
    asked: Asked,
    work: Work,
    timing: Timing,
    *,
    binary: bool,
) -> Response:
    """Find the models, do the work in a worker for traces, book and encode what came out."""
    state = state_of(request)
    request.state.binary = binary
    models = [state.repository.get(name, version) for version in versions]
    subjects = [subject_of(state, model) for model in models]
    deadline = Deadline(state.settings)
    deadline.shorten(asked.deadline_ms)
    request_id = str(request.scope["state"]["request_id"])

    def call() -> tuple[bytes, int]:
        deadline.left()
        timing.mark("queue")
        with state.metrics.gates.capture_seconds.labels(models[0].name, models[0].version).time():
            found = work(list(zip(models, subjects, strict=True)), deadline, timing)
        nonfinite = _nonfinite(found)
        head = {"schema": SCHEMA, "request_id": request_id, **identity(models[0], subjects[0])}
        whole = {**head, **found, "timing_ms": timing.ms}
        return as_safetensors(whole) if binary else encode(whole), nonfinite

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(model.in_use())
        encoded, nonfinite = await in_trace(request, call, fail_if_busy=asked.fail_if_busy)
    if nonfinite:
        state.metrics.gates.nonfinite.labels(models[0].name, models[0].version).inc(nonfinite)
    return Response(encoded, media_type=MEDIA_TYPE if binary else JSON)


def _nonfinite(found: Mapping[str, Any]) -> int:
    parts = found.get("results", [found] if "tensors" in found else [])
    return sum(count_nonfinite(part) for part in parts)


def _is_binary(request: Request, asked: GatesRequest | CompareRequest) -> bool:
    accepted = request.headers.get("accept", "")
    return asked.output.format == "safetensors" or MEDIA_TYPE in accepted
