"""Kernels that a run loads by name, here in Triton's interpreter."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import jaxtyping
import pytest
import torch

from ddl_model.config import ConfigError, LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training import kernels
from ddl_model.training.config import TrainConfig
from ddl_model.training.engine import Engine, Placement
from ddl_model.training.kernels import TRITON, choose_kernels, enable_kernels
from tests.ddl_model.training.commands import run
from tests.ddl_model.training.conftest import text_task
from tests.export.triton_cases import needs_triton


@pytest.fixture
def _off_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from export.kernels import triton

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # torch.compile cannot trace the checks
    yield
    triton.disable()
    torch._dynamo.reset()


def losses(config: TrainConfig, placement: Placement) -> list[float]:
    """Return the losses of two steps."""
    task = text_task(config)
    torch.manual_seed(0)
    assert isinstance(config.model, LanguageModelConfig)
    model = LanguageModel(config.model)
    engine = Engine(placement, "32-true")
    engine.set_up(model, config.optimizer)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.model.vocab_size, (2, 1, 9), generator=generator)
    return [engine.step([(rows[:, :-1], rows[:, 1:])], task, 1e-2).loss for rows in ids]


@needs_triton
@pytest.mark.usefixtures("_off_again")
def test_a_run_with_kernels_has_the_losses_of_one_without(text_config: TrainConfig) -> None:
    calls = []
    plain = losses(text_config, Placement(accelerator="cpu"))
    from export.kernels.triton import state_op

    original = state_op.state_step

    def counted(*arguments: object) -> object:
        calls.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.kernels.triton.register.state_step", counted)
        found = losses(text_config, Placement(accelerator="cpu", kernels=TRITON))
    assert calls
    assert found == pytest.approx(plain, abs=1e-5)


LOSSES = """
import sys, torch
from ddl_model.config import AttentionConfig, LanguageModelConfig, StateConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training.config import OptimizerConfig
from ddl_model.training.engine import Engine, Placement
from ddl_model.training.kernels import TRITON

class Task:
    def loss(self, model, inputs, labels):
        return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())

few = Placement(accelerator="cpu", compile_model=True, kernels=TRITON, keep_states=2)
torch.manual_seed(0)
model = LanguageModel(LanguageModelConfig(vocab_size=11, layers=1, width=6, feedforward_width=8,
    attention=AttentionConfig(heads=1, head_width=4), state=StateConfig(value_channels=2)))
engine = Engine(few if sys.argv[1] == "few" else Placement(accelerator="cpu"), "32-true")
engine.set_up(model, OptimizerConfig(learning_rate=1e-2))
ids = torch.randint(11, (1, 4), generator=torch.Generator().manual_seed(1))
print([engine.step([(ids[:, :-1], ids[:, 1:])], Task(), 1e-2).loss for _ in range(2)])
"""


@needs_triton
def test_making_states_again_changes_no_loss() -> None:
    def losses(placement: str) -> list[float]:
        done = run([sys.executable, "-W", "ignore", "-c", LOSSES, placement])
        assert done.returncode == 0, done.stderr
        found: list[float] = json.loads(done.stdout)
        return found

    # Not in this process, where shapes are checked: torch.compile cannot trace the checks.
    assert losses("few") == pytest.approx(losses("plain"), abs=1e-5)


def test_states_are_made_again_by_kernels_in_compiled_networks_alone(text_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="--keep-states needs --kernels and --compile on"):
        losses(text_config, Placement(accelerator="cpu", keep_states=2))
    with pytest.raises(ConfigError, match="--keep-states needs"):
        losses(text_config, replace(Placement(accelerator="cpu", keep_states=2), compile_model=True))


def test_a_module_without_kernels_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--kernels no\.such: No module named 'no'"):
        enable_kernels("no.such")
    with pytest.raises(ConfigError, match="--kernels json: it has no `enable`"):
        enable_kernels("json")


def test_kernels_that_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("kernels_elsewhere")
    module.enable = lambda: False  # type: ignore[attr-defined]
    module.keep_every = lambda function, every: function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ConfigError, match="they cannot run on this machine; --kernels off"):
        enable_kernels(module.__name__)


@pytest.mark.parametrize(
    ("choice", "accelerator", "card", "module"),
    [
        ("auto", "auto", True, TRITON),
        ("auto", "cpu", True, ""),
        ("auto", "auto", False, ""),
        ("off", "cuda", True, ""),
        ("mine.kernels", "cpu", False, "mine.kernels"),
    ],
)
def test_the_choice(monkeypatch: pytest.MonkeyPatch, choice: str, accelerator: str, card: bool, module: str) -> None:
    monkeypatch.setattr(kernels.torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: object())
    assert choose_kernels(choice, accelerator) == module
