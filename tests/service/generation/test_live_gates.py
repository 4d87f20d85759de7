"""Live statistics of generated texts count each token once, with the gates of the whole text."""

import numpy as np

from service.bundle import Gates, Positions, Site
from service.gates.live.budget import Budget
from service.gates.live.histograms import count_gates
from service.gates.live.live import LiveGates
from service.gates.live.windows import HOUR
from tests.service.generation.conftest import Words
from tests.service.generation.loops import TEXT, Engine


def gates_of(words: Words) -> Gates:
    """Return what the manifest says of sites, by the names of the step graph's outputs."""
    names = sorted(spec.name for spec in words.graph.graph.outputs if spec.name.endswith("/beta"))
    sites = tuple(
        Site(index=index, name=name.split("/")[1], layer=index // 2, sublayer="attn", module="m")
        for index, name in enumerate(names)
    )
    return Gates(
        update_rule="delta",
        value_channels=1,
        direction_eps=0.0,
        value_map=None,
        positions=Positions(kind="token"),
        sites=sites,
        outputs={"beta": tuple(names)},
    )


def test_every_token_is_counted_once_with_the_gates_of_the_whole_text(words: Words) -> None:
    engine, gates = Engine(words, slots=2), gates_of(words)
    live = LiveGates(gates, None, Budget(1.0, lambda: 0.0), lambda: 1e9)
    live._budget.spend = lambda seconds: None  # type: ignore[method-assign]
    engine.loop.show_gates(live)
    answers = [engine.ask(TEXT[start : start + size], 4) for start, size in ((0, 11), (20, 3), (40, 7))]
    engine.finish()
    engine.check(*answers)
    seen = live.window(HOUR)
    expected = np.zeros_like(seen.fine)
    tokens = 0
    for answer in answers:
        text = [*answer.request.prompt, *answer.tokens()[:-1]]  # nobody read the last one
        found = words._whole.run({"input_ids": np.array([text])}, gates.outputs["beta"])
        expected += count_gates(np.stack([found[name][0] for name in gates.outputs["beta"]])).fine
        tokens += len(text)
    assert (seen.tokens, seen.sequences) == (tokens, 3)
    # A gate next to an edge may fall on its other side: both graphs add in another order.
    assert np.abs(seen.fine - expected).sum() <= 4


def test_unseen_steps_cost_nothing(words: Words) -> None:
    engine = Engine(words)
    live = LiveGates(gates_of(words), None, Budget(0.0))
    engine.loop.show_gates(live)
    answer = engine.ask(TEXT[:5], 3)
    engine.finish()
    engine.check(answer)
    assert engine.stepper.gates == {}
    assert live.totals().runs == 0
