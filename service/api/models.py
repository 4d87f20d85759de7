"""What is served, and on which path its rewrites are computed."""

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.state import state_of
from service.repository import Entry, State


class OpNodes(Answer):
    """A custom op of the graph: how many nodes it has, and the path that they take."""

    name: str
    version: int
    nodes: int
    path: Literal["kernel", "plain"]


class Kernel(Answer):
    """How the custom ops are computed: `kernel` by the compiled library, `plain` by the graph's own bodies."""

    path: Literal["kernel", "plain"]
    reason: str
    isa: str | None
    ops: list[OpNodes]


class ModelSummary(Answer):
    """A version of a model; what follows `reason` is null unless it answers."""

    name: str
    version: str
    state: State
    reason: str
    description: str | None = None
    task: str | None = None
    labels: list[str] | None = None
    gates: bool | None = None
    kernel: Kernel | None = None
    provider: str | None = None
    weights_sha256: str | None = None
    metrics: dict[str, float] | None = None
    load_seconds: float | None = None


class ModelList(Answer):
    """Every model of the repository."""

    models: list[ModelSummary]


async def list_models(request: Request) -> Response:
    """Every model of the repository: its state, its labels, and the path of its rewrites.

    A version that was refused is listed with the reason, one that is not to be served is left out.
    """
    return json_response({"models": [_summary(entry) for entry in state_of(request).repository.entries()]})


def _summary(entry: Entry) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
    }
    if (model := entry.loaded) is not None:
        kernel = model.session.kernel
        summary |= {
            "description": model.manifest.description,
            "task": model.manifest.task.kind,
            "labels": model.manifest.classification.labels,
            "gates": model.manifest.gates is not None,
            "kernel": {
                "path": kernel.path,
                "reason": kernel.reason,
                "isa": kernel.info.isa if kernel.info else None,
                "ops": [
                    {"name": op.name, "version": op.version, "nodes": op.count, "path": kernel.path}
                    for op in model.manifest.graph.custom_ops
                ],
            },
            "provider": model.session.provider,
            "weights_sha256": model.manifest.weights_sha256,
            "metrics": model.manifest.metrics,
            "load_seconds": round(model.load_seconds, 3),
        }
    return summary
