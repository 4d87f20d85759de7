"""lm-evaluation-harness runs on our checkpoints: the real package, tasks from a folder, no network."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddl_model.checkpoint import read_checkpoint
from ddl_model.training.config import TrainConfig
from ddl_model.training.errors import DataError
from ddl_model.training.evaluation.__main__ import main
from ddl_model.training.loop import train
from tests.ddl_model.training.conftest import optimizer_changed, sentences, text_task

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
metric_list:
  - metric: acc
"""
PERPLEXITY = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""


@pytest.fixture(scope="module")
def checkpoint(text_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a language model that knows the grammar."""
    folder = tmp_path_factory.mktemp("harness")
    config = replace(optimizer_changed(text_config, learning_rate=1e-2), steps=120, evaluate_every=120)
    train(config, text_task(config), folder, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def harness(checkpoint: Path) -> Any:
    from ddl_model.training.evaluation.harness import DeltaHarness

    return DeltaHarness(str(checkpoint), batch_size=3, max_length=24)


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in arguments]


def expected(harness: Any, context: str, continuation: str) -> float:
    """Return the log-probability, one sequence at a time."""
    start = [harness.eot_token_id, *harness.tok_encode(context)]
    ids = [harness.eot_token_id, *harness.tok_encode(context + continuation)]
    with torch.no_grad():
        scores = harness.model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return float(sum(scores[place - 1, ids[place]] for place in range(len(start), len(ids))))


def test_likelihoods_are_those_of_the_model(harness: Any) -> None:
    pairs = [("The cat", " sees a dog."), ("", "My sister"), ("An old man", " likes"), ("A dog", " follows the cat.")]
    scores = harness.loglikelihood(requests(*pairs), disable_tqdm=True)
    for (context, continuation), (score, _) in zip(pairs, scores, strict=True):
        assert score == pytest.approx(expected(harness, context, continuation), abs=1e-4)


def test_generation_is_greedy_and_ends_where_it_should(harness: Any) -> None:
    context = "The cat never"
    (made,) = harness.generate_until(requests((context, {"until": [], "max_gen_toks": 6})), disable_tqdm=True)
    assert len(made) > 3
    stop = made[2:4]
    (cut,) = harness.generate_until(requests((context, {"until": stop, "max_gen_toks": 6})), disable_tqdm=True)
    assert cut == made.partition(stop)[0]
    ids = harness.tok_encode(context)
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(harness.model(torch.tensor([[harness.eot_token_id, *ids]]))[0, -1].argmax()))
    scored = harness._loglikelihood_tokens([(("", ""), ids[:-3], ids[-3:]), (("", ""), ids[:-3], [1, 2, 3])])
    assert [greedy for _, greedy in scored] == [True, False]


def test_long_texts_are_scored_in_windows_each_token_once(harness: Any) -> None:
    text = sentences(2000, count=10)
    ids = harness.tok_encode(text)
    assert len(ids) > 2 * harness.max_length
    total = 0.0
    for start in range(0, len(ids), harness.max_length):
        window = ids[start : start + harness.max_length]
        before = [harness.eot_token_id] if start == 0 else ids[start - 1 : start]
        with torch.no_grad():
            row = [*before, *window[:-1]]
            row = row if start == 0 else [harness.eot_token_id, *row][-(harness.max_length + 1) :]
            scores = harness.model(torch.tensor([row]))[0].log_softmax(-1)[-len(window) :]
        total += float(scores.gather(1, torch.tensor(window).unsqueeze(1)).sum())
    (score,) = harness.loglikelihood_rolling(requests((text,)), disable_tqdm=True)
    assert score == pytest.approx(total, rel=0.02)  # the last window may see more of what is before it


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_tasks_of_the_harness_run_from_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    rows = [
        {"question": f"{who} sees", "choices": ["a dog.", "dog a q."], "answer": 0, "text": sentences(3000 + n)}
        for n, who in enumerate(("The cat", "My sister", "An old man", "The small bird", "A dog"))
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "choice.yaml").write_text(CHOICE.format(name="ddl_choice", file=data))
    (tasks / "perplexity.yaml").write_text(PERPLEXITY.format(name="ddl_perplexity", file=data))
    arguments = [str(checkpoint), "--tasks", "ddl_choice,ddl_perplexity", "--include-path", str(tasks)]
    assert main(arguments) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["ddl_choice"]["acc,none"] == 1.0
    recorded = read_checkpoint(checkpoint).training["test"]["bits_per_byte"]
    assert results["ddl_perplexity"]["bits_per_byte,none"] == pytest.approx(recorded, rel=0.3)


def test_unknown_tasks_are_told(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddl_model.training.evaluation import harness

    monkeypatch.setattr(harness, "TaskManager", lambda **_: SimpleNamespace(all_tasks=["lambada_openai"]))
    with pytest.raises(DataError, match="the harness knows no task no_such_task: `lm_eval ls tasks`"):
        harness.run_tasks(checkpoint, ["lambada_openai", "no_such_task"], None, None, "cpu")


def test_without_the_package_its_extra_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ddl_model.training.evaluation.harness", None)
    assert main([str(checkpoint), "--tasks", "x"]) == 1
    assert "pip install 'deep-delta-serving[lm-eval]'" in capsys.readouterr().err
