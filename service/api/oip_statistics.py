"""Open Inference Protocol: the statistics extension."""

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Answer, json_response
from service.api.state import state_of
from service.oip.statistics import statistics_of


class DurationCount(Answer):
    """How often something happened, and the nanoseconds that it took in all."""

    count: int
    ns: int


class InferenceStatistics(Answer):
    """Requests by what became of them, and the steps of those that ran. There is no cache: its counters stay 0."""

    success: DurationCount
    fail: DurationCount
    queue: DurationCount
    compute_input: DurationCount
    compute_infer: DurationCount
    compute_output: DurationCount
    cache_hit: DurationCount
    cache_miss: DurationCount


class BatchSizeStatistics(Answer):
    """The runs of one batch size, in rows."""

    batch_size: int
    compute_input: DurationCount
    compute_infer: DurationCount
    compute_output: DurationCount


class ModelStatistics(Answer):
    """One model version: rows inferred, runs of the graph, and when the last one was (milliseconds since 1970)."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchSizeStatistics]


class StatisticsList(Answer):
    """Every model version that was asked for and answers."""

    model_stats: list[ModelStatistics]


async def all_statistics(request: Request) -> Response:
    """Counters of every model version that answers, since it was loaded."""
    return json_response({"model_stats": statistics_of(state_of(request).repository)})


async def model_statistics(request: Request, name: str, version: str | None = None) -> Response:
    """Counters of a model, since it was loaded; without a version, of each of its versions that answers."""
    return json_response({"model_stats": statistics_of(state_of(request).repository, name, version)})
