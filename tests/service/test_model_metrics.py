import asyncio

from prometheus_client.parser import text_string_to_metric_families

from service.engine.batcher import Batcher
from service.engine.job import BatchLimits
from service.metrics import BATCH_ROWS, Metrics
from tests.service.conftest import until
from tests.service.fakes import POISON, Caller, FakeSession, graph


def test_what_batches_came_to_is_read_when_somebody_scrapes() -> None:
    metrics = Metrics()

    async def scenario() -> Batcher:
        batcher = Batcher([FakeSession()], graph(), BatchLimits(max_rows=8))
        figures = batcher.statistics.figures
        metrics.batches.watch_models(lambda: [figures("tiny", "3", batcher.waiting, batcher.running)])
        callers = [Caller(rows=rows) for rows in (3, 5, 8, 9)] + [Caller(POISON)]
        callers.append(Caller(deadline=-1.0))
        gone = Caller()
        gone.hung_up = True
        for caller in (*callers, gone):
            batcher.submit(caller.job)
        await until(lambda: all(caller.outcomes for caller in (*callers, gone)))
        batcher.close()
        return batcher

    batcher = asyncio.run(scenario())
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render("text/plain")[0].decode())
        for sample in family.samples
        if sample.name.startswith("ddl_model_")
    }
    named = (("model", "tiny"), ("version", "3"))
    outcomes = {"answered": 4, "failed": 1, "rejected": 0, "expired": 1, "cancelled": 1}
    for outcome, count in outcomes.items():
        assert found["ddl_model_requests_total", (named[0], ("outcome", outcome), named[1])] == count
    assert found["ddl_model_batch_rows_sum", named] == 25
    assert found["ddl_model_batch_rows_count", named] == batcher.statistics.execution_count == 3
    edges = {float(dict(labels)["le"]): value for (name, labels), value in found.items() if name.endswith("_bucket")}
    assert sorted(edges) == [*BATCH_ROWS, float("inf")]
    assert (edges[4.0], edges[8.0], edges[16.0], edges[float("inf")]) == (0, 2, 3, 3)
    assert found["ddl_model_waiting", named] == found["ddl_model_running", named] == 0
    steps = {dict(labels)["step"] for (name, labels) in found if name == "ddl_model_step_seconds_total"}
    assert steps == {"queue", "compute_input", "compute_infer", "compute_output"}
