"""Loss and accuracy of a checkpoint on held-out data, whoever made it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ddl_model.checkpoint import Checkpoint, Model, build_model
from ddl_model.config import LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training import fashion_mnist
from ddl_model.training.errors import DataError
from ddl_model.training.image_task import class_metrics, image_batches, measure_classes, model_pixels
from ddl_model.training.task import Batch
from ddl_model.training.text.documents import find_sources, read_documents
from ddl_model.training.text.shards import TOKENIZER_NAME, TokensHeader, TokenStream
from ddl_model.training.text.tokenizer import end_of_text, parse_tokenizer, read_tokenizer, token_bytes
from ddl_model.training.text_task import check_vocabulary, measure_tokens, token_metrics, token_windows

DEFAULT_SEQUENCE_LENGTH = 1024


@dataclass(frozen=True)
class Question:
    """What to evaluate a checkpoint on.

    `data` is a folder of tokens or of images, `text` sources of text; without both it is the data of the training.
    `split` is `test` or `validation`; text has one held-out split, which is both. `limit` is the largest number of
    images or tokens, all if None. Text is cut into windows of `sequence_length` tokens, those of the training if None.
    """

    data: Path | None = None
    text: Sequence[str] = ()
    column: str = "text"
    split: str = "test"
    limit: int | None = None
    sequence_length: int | None = None
    device: str = "cpu"


def evaluate_checkpoint(checkpoint: Checkpoint, question: Question, *, show_progress: bool = False) -> dict[str, Any]:
    """Return the metrics of a checkpoint: loss in nats and accuracy; for text, perplexity and bits per byte as well.

    Raises:
        DataError: the data are missing or do not belong to the model.
        CheckpointError: the weights do not fit the config.
    """
    model = build_model(checkpoint).eval().to(question.device)
    if isinstance(checkpoint.config, LanguageModelConfig):
        assert isinstance(model, LanguageModel)
        return _evaluate_text(model, checkpoint, question, show_progress)
    return _evaluate_images(model, checkpoint, question, show_progress)


def _evaluate_images(model: Model, checkpoint: Checkpoint, question: Question, show: bool) -> dict[str, Any]:
    if question.text:
        raise DataError("an image classifier cannot be evaluated on text")
    training_set, chosen = fashion_mnist.load(question.data)
    if question.split == "validation":
        held_out = checkpoint.training.get("config", {}).get("data", {}).get("validation_images")
        if held_out is None:
            raise DataError("the checkpoint does not say which images were held out: evaluate on the test split")
        chosen = training_set.split(held_out)[1]
    if question.limit is not None:
        chosen = type(chosen)(chosen.images[: question.limit], chosen.labels[: question.limit])

    def measure(images: Tensor, labels: Tensor) -> Tensor:
        return measure_classes(model(model_pixels(images, checkpoint.config)), labels)

    sums = _add_up(measure, image_batches(chosen), question.device, show)
    return {"split": question.split, "images": len(chosen), **class_metrics(sums)}


def _evaluate_text(model: LanguageModel, checkpoint: Checkpoint, question: Question, show: bool) -> dict[str, Any]:
    stream, bytes_of = _open_text(checkpoint, question)
    trained = checkpoint.training.get("config", {}).get("data", {}).get("sequence_length")
    length = question.sequence_length or trained or DEFAULT_SEQUENCE_LENGTH

    def measure(inputs: Tensor, labels: Tensor) -> Tensor:
        return measure_tokens(model(inputs), labels, bytes_of)

    sums = _add_up(measure, token_windows(stream, length, question.limit), question.device, show)
    return {"split": "held out", "tokens": int(sums[2]), "sequence_length": length, **token_metrics(sums)}


def _open_text(checkpoint: Checkpoint, question: Question) -> tuple[TokenStream, Tensor]:
    """Return the tokens to predict, and how many bytes each token of the vocabulary stands for."""
    assert isinstance(checkpoint.config, LanguageModelConfig)
    if question.text:
        if not checkpoint.tokenizer:
            raise DataError(f"the checkpoint has no {TOKENIZER_NAME}: give --data, a folder of tokens made for it")
        tokenizer = parse_tokenizer(checkpoint.tokenizer, f"the checkpoint's {TOKENIZER_NAME}")
        end = end_of_text(tokenizer)
        ids = [end]
        for document in read_documents(find_sources(question.text), question.column):
            ids += [*tokenizer.encode(document, add_special_tokens=False).ids, end]
        if len(ids) == 1:
            raise DataError(f"{', '.join(question.text)} holds no text")
        return TokenStream([np.asarray(ids, np.uint32)]), torch.from_numpy(token_bytes(tokenizer))
    recorded = checkpoint.training.get("config", {}).get("data", {}).get("folder")
    folder = question.data or (Path(recorded) if recorded else None)
    if folder is None:
        raise DataError("the checkpoint does not name its data: give --data TOKENS or --text SOURCE")
    header = TokensHeader.read(folder)
    check_vocabulary(checkpoint.config.vocab_size, header.vocab_size, str(folder))
    if checkpoint.tokenizer and hashlib.sha256(checkpoint.tokenizer.encode()).hexdigest() != header.tokenizer_sha256:
        raise DataError(f"the tokens in {folder} were made with another tokenizer than the checkpoint's")
    bytes_of = torch.from_numpy(token_bytes(read_tokenizer(folder / TOKENIZER_NAME)))
    return TokenStream.open(folder, header, "validation"), bytes_of


@torch.inference_mode()
def _add_up(
    measure: Callable[[Tensor, Tensor], Tensor], batches: Sequence[Callable[[], Batch]], device: str, show: bool
) -> Tensor:
    sums: list[Tensor] = []
    for batch in tqdm(batches, "evaluating", unit="batch", disable=not show, leave=False):
        inputs, labels = batch()
        sums.append(measure(inputs.to(device), labels.to(device)).cpu())
    return torch.stack(sums).sum(0)
