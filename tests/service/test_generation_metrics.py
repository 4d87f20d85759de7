"""What the engine of a language model tells a scrape."""

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import Overloaded
from service.metrics import Metrics
from service.metrics.generation import STEP_ROWS, Spread
from tests.service.generation.conftest import Words, words
from tests.service.generation.loops import TEXT, Engine

__all__ = ["words"]


def test_an_engine_tells_what_it_has_come_to(words: Words) -> None:
    engine = Engine(words, slots=2, queue_limit=4)
    metrics = Metrics()
    metrics.generation.watch(lambda: [engine.loop.figures("words", "3")])
    asked = [engine.ask(TEXT[:5], 3), engine.ask(TEXT[:5], 4), engine.ask(TEXT[6:9], 2), engine.ask(TEXT[9:12], 9)]
    with pytest.raises(Overloaded):
        engine.ask(TEXT[:3], n=2)
    asked[3].cancel()
    engine.loop.turn()
    while engine.loop.turn():
        engine.clock.now += 0.02
    found = {
        (
            sample.name.removeprefix("ddl_generation_"),
            *sorted(set(sample.labels.values()) - {"words", "3"}),
        ): sample.value
        for family in text_string_to_metric_families(metrics.render("text/plain")[0].decode())
        for sample in family.samples
        if sample.name.startswith("ddl_generation_")
    }
    outcomes = {"completed": 3, "cancelled": 1, "expired": 0, "failed": 0, "rejected": 2}
    assert {outcome: found["answers_total", outcome] for outcome in outcomes} == outcomes
    assert (found["tokens_total", "prompt"], found["tokens_total", "reused"]) == (13, 5)
    assert found["tokens_total", "answer"] == found["first_token_seconds_count",] + found["token_seconds_count",] == 9
    assert found["token_seconds_bucket", "0.01"] < found["token_seconds_bucket", "0.025"] == 6
    assert found["queue_seconds_count",] == 3
    assert found["step_rows_sum",] == engine.loop.counts.decode_rows == 6
    assert found["step_rows_count",] == found["steps_total", "decode"]
    assert (found["waiting",], found["running",], found["slots",]) == (0, 0, 2)
    assert 0 < found["cached_tokens",] <= found["cache_tokens",] == 64


def test_buckets_are_cumulative_and_hold_their_edges() -> None:
    spread = Spread(STEP_ROWS)
    values = np.random.default_rng(0).integers(1, 200, 500)
    for value in values:
        spread.observe(value)
    assert spread.total == values.sum()
    wanted = [(str(float(edge)), float((values <= edge).sum())) for edge in STEP_ROWS]
    assert spread.buckets() == [*wanted, ("+Inf", 500.0)]
