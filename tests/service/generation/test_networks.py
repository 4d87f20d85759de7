"""Networks whose caches are of other kinds: none with histories, and histories in every layer."""

from dataclasses import replace

import numpy as np
import pytest

from ddl_model import LanguageModelConfig, StateConfig
from export.pipeline import export_bundle
from tests.export.text_checkpoint import CONFIG, save_text_checkpoint
from tests.service.generation.conftest import Words
from tests.service.generation.loops import Engine

TEXT: list[int] = np.random.default_rng(8).integers(1, 270, 60).tolist()
NETWORKS = {
    "keys and values alone": replace(CONFIG, state=StateConfig(value_channels=2)),
    "tokens compressed in every layer": replace(
        CONFIG,
        state=StateConfig(value_channels=2, expand="convolution", expand_kernel=3, compress="token", compress_kernel=4),
        attention=replace(CONFIG.attention, key_shift=True),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Words:
    config: LanguageModelConfig = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp("network") / "words" / "1"
    assert export_bundle(save_text_checkpoint(tmp_path_factory.mktemp("run"), config), folder).agrees
    return Words(folder)


@pytest.mark.parametrize("step_tokens", [1, 5, 64])
def test_mixed_lengths_and_shared_beginnings_come_out_as_alone(network: Words, step_tokens: int) -> None:
    engine = Engine(network, slots=8, step_tokens=step_tokens)
    answers = [engine.ask(TEXT[i : i + size], count) for i, size, count in ((0, 20, 4), (9, 1, 9), (30, 6, 2))]
    for _ in range(3):
        engine.loop.turn()
    answers += [engine.ask(TEXT[:18] + TEXT[40 : 40 + size], 3) for size in (2, 5, 1)]
    engine.finish()
    answers.append(engine.ask(TEXT[:20], 6))
    engine.finish()
    engine.check(*answers)
    assert engine.ended[-1].reused == 20
    beginning = engine.ask([*TEXT[:12], *TEXT[50:53]], 2)
    engine.finish()
    engine.check(beginning)
    # Keys and values serve any beginning; histories only where they were kept.
    assert engine.ended[-1].reused == (0 if engine.stepper.slots.keeps_histories else 12)
