"""Which tokens are trained on and measured, and when."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ddl_model import LanguageModel
from ddl_model.training.config import TextDataConfig, TrainConfig
from ddl_model.training.errors import DataError
from ddl_model.training.text_task import IGNORED, TextTask
from tests.ddl_model.training.conftest import text_task


def test_an_epoch_visits_every_window_once_at_its_own_offset(text_config: TrainConfig) -> None:
    task = text_task(text_config)
    length, stream = 16, task.streams["train"]
    first_tokens = []
    for epoch in (0, 1):
        inputs, labels = task.batch(task.order(epoch), epoch, step=epoch)
        assert inputs.shape == labels.shape == (task.items, length)
        assert torch.equal(inputs[:, 1:], labels[:, :-1])
        starts = sorted(range(task.items), key=lambda row: int(task.order(epoch)[row]))
        joined = inputs[starts].flatten().tolist()
        offset = next(o for o in range(length) if stream.read(o, o + len(joined)).tolist() == joined)
        first_tokens.append(offset)
        assert len(stream) - length <= offset + len(joined) + length
    assert first_tokens[0] != first_tokens[1]
    assert not torch.equal(task.order(0), task.order(1))


def test_batches_are_functions_of_seed_epoch_and_step(text_config: TrainConfig) -> None:
    rows = torch.arange(5)
    first, again = (text_task(text_config).batch(rows, 3, 7) for _ in range(2))
    assert torch.equal(first[0], again[0])
    other = text_task(replace(text_config, seed=1))
    assert not torch.equal(other.order(0), text_task(text_config).order(0))


def test_held_out_windows_have_every_token_but_the_first_as_label_once(text_config: TrainConfig) -> None:
    task = text_task(text_config)
    everything = task.streams["validation"].read(0, 10**6).tolist()
    labels = torch.cat([make()[1].flatten() for make in task.held_out("test")])
    assert labels[labels != IGNORED].tolist() == everything[1:]
    limited = torch.cat([make()[1].flatten() for make in task.held_out("validation")])
    count = -(-200 // 16) * 16
    assert limited.tolist() == everything[1 : count + 1]


def test_metrics_are_what_their_names_say(text_config: TrainConfig, documents: list[str]) -> None:
    task = text_task(text_config)
    torch.manual_seed(0)
    model = LanguageModel(text_config.model).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        sums = sum(task.measure(model, *make()) for make in task.held_out("test"))
    assert isinstance(sums, torch.Tensor)
    metrics = task.metrics(sums)
    nats = right = count = 0.0
    stream = task.streams["validation"].read(0, 10**6)
    for start in range(0, len(stream) - 1, 16):
        window = torch.from_numpy(stream[start : start + 17])
        with torch.no_grad():
            logits = model(window[None, :-1])[0]
        nats += float(F.cross_entropy(logits, window[1:], reduction="sum"))
        right += int((logits.argmax(-1) == window[1:]).sum())
        count += len(window) - 1
    held_out = task.header.splits["validation"]
    assert metrics["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right / count)
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / held_out.bytes, rel=1e-5)


def test_data_that_do_not_fit_the_model_are_refused_at_once(text_config: TrainConfig, tokens: Path) -> None:
    data, model = text_config.data, text_config.model
    assert isinstance(data, TextDataConfig)
    with pytest.raises(DataError, match=r"vocabulary of 300 tokens, the model one of 299: set model\.vocab_size=300"):
        TextTask(data, replace(model, vocab_size=299), 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the model one of 428"):
        TextTask(data, replace(model, vocab_size=428), 0)  # type: ignore[arg-type]
    TextTask(data, replace(model, vocab_size=384), 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"too few for sequences of 100000: set data\.sequence_length lower"):
        TextTask(replace(data, sequence_length=100_000), model, 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="holds no tokens"):
        TextTask(replace(data, folder=str(tokens.parent)), model, 0)  # type: ignore[arg-type]
