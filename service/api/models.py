"""What is served, and on which path its rewrites are computed."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.state import state_of
from service.manifest.image import Classification
from service.repository import Entry, Loaded, State


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


class ModelCard(Answer):
    """A model that answers, as OpenAI's clients list models; the newest version, or what an alias stands for."""

    id: str
    object: Literal["model"]
    created: int = Field(description="seconds since 1970")
    owned_by: str
    version: str
    task: str
    max_model_len: int | None = Field(description="longest text, prompt and answer, in tokens; of language models")


class ModelList(Answer):
    """Every model of the repository, and those that answer once more as OpenAI's clients list them."""

    object: Literal["list"]
    data: list[ModelCard]
    models: list[ModelSummary]


async def list_models(request: Request) -> Response:
    """Every model of the repository: its state, its labels, and the path of its rewrites.

    A version that was refused is listed with the reason, one that is not to be served is left out. `data` lists the
    models that answer as OpenAI's clients expect it.
    """
    entries = state_of(request).repository.entries()
    newest = {entry.name: entry.loaded for entry in entries if entry.loaded is not None}
    data = [_card(name, model) for name, model in newest.items()]
    return json_response({"object": "list", "data": data, "models": [_summary(entry) for entry in entries]})


async def get_model(request: Request, name: str) -> Response:
    """Name a model that answers, as OpenAI's clients expect it."""
    return json_response(_card(name, state_of(request).repository.get(name)))


def _card(name: str, model: Loaded) -> dict[str, Any]:
    language = model.language_or_none
    return {
        "id": name,
        "object": "model",
        "created": _seconds(model.manifest.created),
        "owned_by": "deep-delta-serving",
        "version": model.version,
        "task": model.manifest.task.kind,
        "max_model_len": language.limits.slot_tokens if language is not None else None,
    }


def _seconds(created: str) -> int:
    """Return the time that a manifest bears, which may be any words, in seconds since 1970; 0 if it is none."""
    try:
        return int(datetime.fromisoformat(created).timestamp())
    except (ValueError, OverflowError):
        return 0


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
            "labels": task.labels if isinstance(task := model.manifest.task, Classification) else None,
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
