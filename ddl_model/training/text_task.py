"""Predicting the next token: batches from token shards, loss and measurements."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddl_model.config import LanguageModelConfig
from ddl_model.observe import Observer
from ddl_model.training.config import TextDataConfig
from ddl_model.training.errors import DataError
from ddl_model.training.image_data import epoch_order, seeded_generator
from ddl_model.training.task import Batch
from ddl_model.training.text.shards import TOKENIZER_NAME, TokensHeader, TokenStream
from ddl_model.training.text.tokenizer import read_tokenizer, token_bytes

IGNORED = -100
"""Label of a position that counts for nothing: padding behind the last window."""
OBSERVED_TOKENS = 2048
"""Held-out tokens whose gates are recorded."""
_EVALUATION_TOKENS = 8192
_ROUNDING = 128
"""A model's vocabulary may be rounded up to a multiple of this."""


class TextTask:
    """Windows of neighbouring tokens in a new order each epoch.

    An epoch cuts the training stream into windows at a random offset, so that windows differ from epoch to epoch, and
    visits them in a random order. Windows know nothing of documents: end-of-text tokens stand between those.
    """

    unit = "tokens"

    def __init__(self, data: TextDataConfig, model: LanguageModelConfig, seed: int) -> None:
        """Map the tokens into memory.

        Raises:
            DataError: the folder has no tokens, their vocabulary is not the model's, or a sequence is longer than the
                data.
        """
        folder = Path(data.folder)
        self.data, self.seed = data, seed
        self.header = TokensHeader.read(folder)
        check_vocabulary(model.vocab_size, self.header.vocab_size, str(folder))
        tokenizer = read_tokenizer(folder / TOKENIZER_NAME)
        self._tokenizer_text = (folder / TOKENIZER_NAME).read_text(encoding="utf-8")
        self._token_bytes = torch.from_numpy(token_bytes(tokenizer))
        self.streams = {split: TokenStream.open(folder, self.header, split) for split in self.header.splits}
        self.units_per_item = data.sequence_length
        self.items = (len(self.streams["train"]) - data.sequence_length) // data.sequence_length
        if self.items < 1:
            raise DataError(
                f"{folder} has {len(self.streams['train']):,} training tokens, too few for sequences of "
                f"{data.sequence_length}: set data.sequence_length lower, or prepare more text"
            )

    def describe(self) -> dict[str, Any]:
        """See `Task`."""
        counts = {split: {"tokens": s.tokens, "documents": s.documents} for split, s in self.header.splits.items()}
        name = Path(self.data.folder).name
        return {"name": name, "sha256": self.header.sha256(), "vocab_size": self.header.vocab_size, **counts}

    def order(self, epoch: int) -> Tensor:
        """See `Task`."""
        return epoch_order(self.items, self.seed, epoch)

    def batch(self, items: Tensor, epoch: int, step: int) -> Batch:
        """See `Task`: ids and, one token later, labels, both (rows, sequence_length)."""
        length = self.data.sequence_length
        offset = int(torch.randint(0, length, (), generator=seeded_generator(self.seed, epoch, 3)))
        stream = self.streams["train"]
        starts = (offset + items * length).tolist()
        rows = torch.from_numpy(np.stack([stream.read(start, start + length + 1) for start in starts]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """See `Task`."""
        return F.cross_entropy(model(inputs).flatten(0, 1).float(), labels.flatten())

    def held_out(self, split: str) -> Sequence[Callable[[], Batch]]:
        """See `Task`: `test` is all held-out tokens, `validation` the first `validation_tokens` of them."""
        limit = self.data.validation_tokens if split == "validation" else None
        return token_windows(self.streams["validation"], self.data.sequence_length, limit)

    def measure(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """See `Task`: nats, rightly predicted tokens, tokens, bytes."""
        return measure_tokens(model(inputs), labels, self._token_bytes)

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """See `Task`, and `token_metrics`."""
        return token_metrics(sums)

    def observe(self, model: nn.Module, observer: Observer) -> None:
        """See `Task`."""
        length = self.data.sequence_length
        inputs, _ = token_windows(self.streams["validation"], length, OBSERVED_TOKENS)[0]()
        rows = max(1, OBSERVED_TOKENS // length)
        model(inputs[:rows].to(next(model.parameters()).device), observer=observer)

    def samples(self) -> dict[str, Tensor]:
        """See `Task`: `input_ids` (1, tokens) from the held-out text, and the `labels` that follow them."""
        inputs, labels = token_windows(self.streams["validation"], self.data.sequence_length, 1)[0]()
        kept = labels[0] != IGNORED
        return {"input_ids": inputs[:1, kept], "labels": labels[:1, kept]}

    def tokenizer(self) -> str:
        """See `Task`."""
        return self._tokenizer_text


def check_vocabulary(model_size: int, data_size: int, name: str) -> None:
    """Refuse a model whose vocabulary is not that of the tokens, apart from rounding up.

    Raises:
        DataError: the vocabularies differ.
    """
    if not data_size <= model_size < data_size + _ROUNDING:
        raise DataError(
            f"{name} has a vocabulary of {data_size:,} tokens, the model one of {model_size:,}: "
            f"set model.vocab_size={data_size}, or prepare the text with --vocab-size {model_size}"
        )


def token_windows(stream: TokenStream, length: int, limit: int | None = None) -> list[Callable[[], Batch]]:
    """Return what makes batches of windows, side by side, in which every token but the first is a label once.

    The last window is padded. `limit` is about how many labels there are.
    """
    labels = len(stream) - 1
    count = -(-min(labels, limit or labels) // length)
    rows = max(1, _EVALUATION_TOKENS // length)
    return [partial(_windows, stream, length, start, min(start + rows, count)) for start in range(0, count, rows)]


def _windows(stream: TokenStream, length: int, first: int, last: int) -> Batch:
    inputs = torch.zeros(last - first, length, dtype=torch.int64)
    labels = torch.full((last - first, length), IGNORED)
    for row, window in enumerate(range(first, last)):
        tokens = torch.from_numpy(stream.read(window * length, min((window + 1) * length + 1, len(stream))))
        inputs[row, : len(tokens) - 1], labels[row, : len(tokens) - 1] = tokens[:-1], tokens[1:]
    return inputs, labels


def measure_tokens(logits: Tensor, labels: Tensor, bytes_of: Tensor) -> Tensor:
    """Return the sums of nats, rightly predicted tokens, tokens, and bytes that they stand for."""
    flat, wanted = logits.flatten(0, 1).float(), labels.flatten()
    counted = wanted != IGNORED
    nats = F.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum")
    right = (flat.argmax(-1) == wanted)[counted].sum()
    size = bytes_of.to(wanted.device)[wanted[counted]].sum()
    return torch.stack([nats.double(), right.double(), counted.sum().double(), size.double()])


def token_metrics(sums: Tensor) -> dict[str, float]:
    """Return cross entropy in nats per token, perplexity, bits per byte of text, and accuracy of the next token."""
    nats, right, count, size = sums.tolist()
    loss = nats / count
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": nats / math.log(2) / max(1.0, size),
        "accuracy": right / count,
    }
