import pytest
import torch

from benchmarks import bench_training
from benchmarks.training_bytes import ADDITIVE, FLOOR, kernels, predict
from ddl_model.config import LanguageModelConfig

CONFIG = LanguageModelConfig()
TOKENS = 64 * 1024


def ratio(plan: object, field: str) -> float:
    base, other = (predict(CONFIG, one, 1024, 123_700_000, TOKENS) for one in (ADDITIVE, plan))  # type: ignore[arg-type]
    return float(getattr(base, field) / getattr(other, field))


def test_the_floor_is_the_known_one() -> None:
    """Products of 355 ns and 221 + 147 kB for a token of the additive network, 12.4 % more time for a fused rewrite."""
    assert predict(CONFIG, ADDITIVE, 1024, 0, TOKENS).forward_seconds == pytest.approx(440.6e-9, rel=2e-3)
    assert ratio(FLOOR, "forward_seconds") == pytest.approx(0.89, abs=2e-3)


def test_one_input_is_cheaper_than_two_and_keeping_fewer_states_costs_time() -> None:
    two, one, few = kernels(one_input=False), kernels(one_input=True), kernels(one_input=False, keep_every=4)
    assert ratio(FLOOR, "step_seconds") > ratio(one, "step_seconds") > ratio(two, "step_seconds")
    assert ratio(two, "step_seconds") > ratio(few, "step_seconds")
    assert 1 / ratio(few, "peak_bytes") < 1.04 < 1 / ratio(two, "peak_bytes")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_training"])
    assert bench_training.main() == bench_training.NO_CARD
    assert "No NVIDIA card" in capsys.readouterr().err


def test_predictions_need_no_card(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench_training", "--predict"])
    assert bench_training.main() == 0
    table = capsys.readouterr().out
    assert "predictions alone" in table
    assert "| additive " in table
    assert "(0.84)" in table
