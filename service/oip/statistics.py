"""Counters of models in the terms of the statistics extension."""

from typing import Any

from service.engine.statistics import Duration, Statistics
from service.oip.index import models_that_answer
from service.repository import Repository

_NONE = Duration()


def statistics_of(repository: Repository, name: str | None = None, version: str | None = None) -> list[dict[str, Any]]:
    """Return the counters of every model version that answers, of one model's versions, or of one version.

    Raises:
        UnknownModel: the repository has no model of this name.
        UnknownVersion: the model has no such version.
        ModelNotReady: the model does not answer.
    """
    models = models_that_answer(repository)
    if name is not None:
        asked = repository.get(name, version)
        models = [asked] if version is not None else [model for model in models if model.name == asked.name]
    return [model_statistics(model.name, model.version, model.batcher.statistics) for model in models]


def model_statistics(name: str, version: str, statistics: Statistics) -> dict[str, Any]:
    """Return one entry of `model_stats`; the service has no cache of answers, so those counters stay 0."""
    durations = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": name,
        "version": version,
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {
            **{part: _duration(getattr(statistics, part)) for part in durations},
            "cache_hit": _duration(_NONE),
            "cache_miss": _duration(_NONE),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(batch.compute_input),
                "compute_infer": _duration(batch.compute_infer),
                "compute_output": _duration(batch.compute_output),
            }
            for rows, batch in sorted(statistics.batches.items())
        ],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
