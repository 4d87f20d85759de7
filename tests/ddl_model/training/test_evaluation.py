"""`ddl-eval` gives the numbers of the training, for our checkpoints and for those of the paper's authors."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddl_model import LanguageModel, load_checkpoint
from ddl_model.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from ddl_model.training import fashion_mnist
from ddl_model.training.config import TrainConfig
from ddl_model.training.errors import DataError
from ddl_model.training.evaluation.__main__ import main
from ddl_model.training.evaluation.generate import Sampling, generate
from ddl_model.training.evaluation.held_out import Question, evaluate_checkpoint
from ddl_model.training.image_data import ImageSet
from ddl_model.training.loop import train
from ddl_model.training.text.documents import END_OF_TEXT
from ddl_model.training.text.prepare import Preparation, prepare_tokens
from ddl_model.training.text.shards import TOKENIZER_NAME, TokensHeader, TokenStream
from ddl_model.training.text.tokenizer import read_tokenizer
from tests.ddl_model.training.conftest import image_task, optimizer_changed, sentences, text_task
from tests.model_fixtures import SMALL_SHA256


@pytest.fixture(scope="module")
def text_run(text_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a language model that knows the grammar a little."""
    folder = tmp_path_factory.mktemp("text-run")
    config = replace(optimizer_changed(text_config, learning_rate=1e-2), steps=80, evaluate_every=40)
    train(config, text_task(config), folder, show_progress=False)
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert main([*arguments, "--json"]) == 0
    result: dict[str, float] = json.loads(capsys.readouterr().out)
    return result


def test_text_that_was_held_out_gives_the_numbers_of_the_training(
    text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = read_checkpoint(text_run).training["test"]
    result = answer(capsys, str(text_run))
    for name in ("loss", "perplexity", "bits_per_byte", "accuracy"):
        assert result[name] == pytest.approx(recorded[name], rel=1e-5)
    assert result["sequence_length"] == 16
    assert main([str(text_run)]) == 0
    printed = capsys.readouterr().out
    assert f"bits per byte    {recorded['bits_per_byte']:.4f}" in printed
    assert main([str(text_run), "--threads", str(torch.get_num_threads())]) == 0


def test_other_text_is_encoded_with_the_checkpoints_tokenizer(
    text_run: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = TokenStream.open(tokens, TokensHeader.read(tokens), "validation")
    ids = stream.read(0, 10**6).tolist()
    text = read_tokenizer(tokens / TOKENIZER_NAME).decode(ids, skip_special_tokens=False)
    (tmp_path / "same.txt").write_text(text, encoding="utf-8")
    same = answer(capsys, str(text_run), "--text", str(tmp_path / "same.txt"))
    assert same["loss"] == pytest.approx(answer(capsys, str(text_run))["loss"], rel=1e-6)
    (tmp_path / "new.txt").write_text(sentences(1000), encoding="utf-8")
    new = answer(capsys, str(text_run), "--text", str(tmp_path / "new.txt"))
    longer = answer(capsys, str(text_run), "--text", str(tmp_path / "new.txt"), "--sequence-length", "64")
    assert new["tokens"] == longer["tokens"]
    assert new["loss"] != longer["loss"]
    limited = answer(capsys, str(text_run), "--limit", "48")
    assert limited["tokens"] == 48


def test_images_give_the_numbers_of_the_training(
    small_recipe: TrainConfig,
    small_data: tuple[ImageSet, ImageSet],
    small_data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = fashion_mnist.load
    monkeypatch.setattr(fashion_mnist, "load", lambda folder=None: load(folder, SMALL_SHA256))
    train(small_recipe, image_task(small_recipe, small_data), tmp_path, show_progress=False)
    checkpoint = read_checkpoint(tmp_path)
    row = checkpoint.training["curve"][-1]
    test = evaluate_checkpoint(checkpoint, Question(data=small_data_folder))
    assert {name: test[name] for name in ("loss", "accuracy")} == pytest.approx(checkpoint.training["test"])
    held_out = evaluate_checkpoint(checkpoint, Question(data=small_data_folder, split="validation"))
    assert held_out["accuracy"] == pytest.approx(row["validation_accuracy"])
    assert held_out["images"] == 100
    assert evaluate_checkpoint(checkpoint, Question(data=small_data_folder, limit=7))["images"] == 7
    with pytest.raises(DataError, match="cannot be evaluated on text"):
        evaluate_checkpoint(checkpoint, Question(text=("x.txt",)))
    with pytest.raises(DataError, match="does not say which images were held out"):
        evaluate_checkpoint(replace(checkpoint, training={}), Question(data=small_data_folder, split="validation"))


def test_the_authors_checkpoints_are_evaluated_on_tokens_made_for_them(
    root: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authors = root / "tests" / "golden" / "cc-ec"
    prepare_tokens([str(text_file)], tmp_path / "tokens", Preparation(257))
    result = answer(capsys, str(authors), "--data", str(tmp_path / "tokens"), "--limit", "300")
    assert result["loss"] == pytest.approx(math.log(result["perplexity"]))
    assert result["bits_per_byte"] > 4  # weights drawn at random
    assert main([str(authors)]) == 1
    assert "the checkpoint does not name its data" in capsys.readouterr().err
    assert main([str(authors), "--text", str(text_file)]) == 1
    assert "the checkpoint has no tokenizer.json" in capsys.readouterr().err
    assert main([str(authors), "--prompt", "x"]) == 1
    assert "only language models with a tokenizer.json" in capsys.readouterr().err


def test_tokens_of_another_tokenizer_are_refused(text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(END_OF_TEXT.join(f"x{n} y{n} z{n}" for n in range(200)), encoding="utf-8")
    prepare_tokens([str(tmp_path / "a.txt")], tmp_path / "tokens", Preparation(300))
    with pytest.raises(DataError, match="made with another tokenizer"):
        evaluate_checkpoint(read_checkpoint(text_run), Question(data=tmp_path / "tokens"))


def test_what_cannot_be_evaluated_is_told(text_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "is no checkpoint" in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text(" ")
    assert main([str(text_run), "--text", str(tmp_path / "empty.txt")]) == 1
    assert "holds no text" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main([str(text_run), "--limit", "0"])
    assert exit_.value.code == 2


def test_help_explains(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "lm-evaluation-harness" in text
    assert "Bits per byte" in text


def test_a_trained_model_continues_a_text(text_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("0", "0", "1"):
        assert main([str(text_run), "--prompt", "The cat", "--tokens", "12", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("The cat") for text in texts)


def test_generation_is_what_uncached_decoding_gives(text_run: Path) -> None:
    model = load_checkpoint(text_run)
    assert isinstance(model, LanguageModel)
    prompt = [0, 70, 80]
    greedy = generate(model, prompt, 8, Sampling(temperature=0))
    ids = list(prompt)
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert greedy == ids[3:]
    assert generate(model, prompt, 8, Sampling(1.0, top_k=1)) == greedy
    assert len({tuple(generate(model, prompt, 8, Sampling(1.0, seed=seed))) for seed in range(4)}) > 1
    assert generate(model, prompt, 8, Sampling(0), lambda made: len(made) == 3) == greedy[:3]


def test_a_checkpoint_without_a_record_takes_tokens(text_run: Path, tokens: Path, tmp_path: Path) -> None:
    trained = read_checkpoint(text_run)
    save_checkpoint(tmp_path, 0, Checkpoint(trained.weights, trained.config, {}))
    result = evaluate_checkpoint(read_checkpoint(tmp_path), Question(data=tokens))
    assert result["sequence_length"] == 1024
    assert result["loss"] < 4
