"""`ddl-train` explains itself, refuses without a traceback, and makes what it is asked to."""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from ddl_model.checkpoint import read_checkpoint
from ddl_model.training import __main__ as program
from ddl_model.training import fashion_mnist
from ddl_model.training.__main__ import main
from ddl_model.training.recipes import RECIPES
from ddl_model.training.text.shards import TokensHeader
from tests.ddl_model.training.commands import SMALL
from tests.ddl_model.training.conftest import sentences
from tests.model_fixtures import SMALL_SHA256


def small(*more: str) -> list[str]:
    """Return options that make `text-tiny` a matter of seconds."""
    fields = {**SMALL, "model.vocab_size": "300", "steps": "4", "evaluate_every": "2"}
    return ["--compile", "off", *more, *(part for name, v in fields.items() for part in ("--set", f"{name}={v}"))]


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert name in text
        assert (recipe.__doc__ or "").splitlines()[0] in text
    for word in ("--resume", "--strategy", "--text", "tensorboard --logdir", "ddl-eval"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optimizer.lr=1"], "there is no field optimizer.lr"),
        (["--epochs", "1", "--steps", "1"], "--epochs and --steps exclude each other"),
        (["--text", "a", "--data", "b"], "--text and --data exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text-tiny", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_numbers_must_be_positive_and_images_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--epochs", "0"], ["--threads", "0"], ["--devices", "0"], ["--nodes", "-1"], ["--steps", "0"]):
        with pytest.raises(SystemExit) as exit_:
            main(["fashion-mnist", *wrong])
        assert exit_.value.code == 2
    assert main(["fashion-mnist", "--text", "a.txt"]) == 2
    assert "--text is for language models" in capsys.readouterr().err


def test_missing_data_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for recipe, advice in (
        ("fashion-mnist", "apt-get install dataset-fashion-mnist"),
        ("text-4m", "add --prepare to collect the English corpus"),
        ("paper-124m", "make them with `ddl-data prepare`"),
    ):
        assert main([recipe, "--data", str(tmp_path / "none"), "--compile", "off"]) == 1
        assert advice in capsys.readouterr().err
    assert main(["text-tiny", "--text", "none.txt", "--compile", "off"]) == 1
    assert "none.txt: no such file or folder" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["text-4m", "--prepare"]) == 1
        assert capsys.readouterr().err.count("before starting several processes") == times


def test_a_folder_with_checkpoints_is_not_trained_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "step-00000001").mkdir(parents=True)
    assert main(["fashion-mnist", "--out", str(tmp_path / "run")]) == 2
    assert "add --resume to continue" in capsys.readouterr().err
    assert main(["fashion-mnist", "--out", str(tmp_path / "none"), "--resume", "--data", str(tmp_path)]) == 1


def test_the_configuration_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text-4m", "--additive", "--seed", "7", "--precision", "bf16-mixed", "--epochs", "2", "--show"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["seed"], shown["precision"]) == ("text-4m-additive", 7, "bf16-mixed")
    assert (shown["epochs"], shown["steps"], shown["model"]["residual"]["rule"]) == (2, 0, "additive")


def test_text_becomes_tokens_a_model_and_logs(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["text-tiny", "--text", str(text_file), "--out", str(tmp_path), *small()]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "Held-out perplexity" in told.out
    assert "step 2: train loss" in told.out + told.err
    header = TokensHeader.read(tmp_path / "tokens")
    assert header.sources == (str(text_file),)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.training["data"]["sha256"] == header.sha256()
    assert main([*command, "--resume", "--quiet"]) == 0  # the tokens are there already
    logs = EventAccumulator(str(tmp_path / "logs")).Reload()
    names = logs.Tags()
    assert {"train/loss", "train/learning_rate", "train/tokens_per_second", "validation/loss"} <= set(names["scalars"])
    assert set(names["histograms"]) == {"gates/0.attn", "gates/0.mlp", "gates/1.attn", "gates/1.mlp"}
    rows = {row["step"]: row for row in checkpoint.training["curve"]}
    for event in logs.Scalars("validation/bits_per_byte"):
        assert event.value == pytest.approx(rows[event.step]["validation_bits_per_byte"], rel=1e-5)
    for event in logs.Histograms("gates/0.attn"):
        mean = event.histogram_value.sum / event.histogram_value.num
        assert mean == pytest.approx(rows[event.step]["gate_means"]["0.attn"], rel=1e-4)


def test_the_recipes_corpus_is_prepared_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(out: Path, **_: Any) -> None:
        out.mkdir(parents=True)
        rows = (json.dumps({"text": sentences(seed)}) + "\n" for seed in range(80))
        (out / "grammar.jsonl").write_text("".join(rows))

    monkeypatch.setattr(program, "collect_english", collect)
    monkeypatch.chdir(tmp_path)
    options = ["text-4m", "--quiet", "--prepare", *small("--set", "accumulation=2", "--set", "epochs=0")]
    options += ["--set", "model.layers=2", "--set", "save_every=0"]
    assert main(options) == 0
    assert TokensHeader.read(tmp_path / "data" / "english-8k").splits["validation"].documents >= 1
    assert read_checkpoint(tmp_path / "runs" / "text-4m").training["finished"]
    assert "bits per byte" in capsys.readouterr().out


def test_too_little_text_for_the_vocabulary_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("One.<|endoftext|>Two.")
    assert main(["text-tiny", "--text", str(tmp_path / "a.txt"), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert "512 are wanted" in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_is_told(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["text-tiny", "--text", str(text_file), "--out", str(tmp_path / "file" / "run"), *small()]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_images_are_trained_from_the_command_line(
    small_data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = fashion_mnist.load
    monkeypatch.setattr(fashion_mnist, "load", lambda folder=None: load(folder, SMALL_SHA256))
    options = ["--set", "data.validation_images=100", "--set", "batch_size=20", "--steps", "3", "--quiet"]
    command = ["fashion-mnist", "--data", str(small_data_folder), "--out", str(tmp_path), "--compile", "off", *options]
    assert main([*command, "--threads", "1", "--set", "evaluate_every=3"]) == 0
    assert "Test accuracy" in capsys.readouterr().out
    assert read_checkpoint(tmp_path).training["data"]["images"] == 540


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert not program._decide_compile("auto", 1000)
    assert "No C++ compiler found" in capsys.readouterr().err
    assert program._decide_compile("on", 1)


def test_long_runs_alone_are_compiled_of_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c++").write_text("#!/bin/sh\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [program._decide_compile("auto", steps) for steps in (999, 1000)] == [False, True]
    assert not program._decide_compile("off", 1000)
