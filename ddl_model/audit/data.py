"""The data set of an audit: whole sequences, images or windows of text, the same for every run."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddl_model.audit.errors import AuditError
from ddl_model.audit.plan import Run
from ddl_model.config import LanguageModelConfig
from ddl_model.training import fashion_mnist
from ddl_model.training.image_task import model_pixels
from ddl_model.training.text.shards import TokensHeader, TokenStream
from ddl_model.training.text_task import check_vocabulary

_BATCH_TOKENS = 4096
_BATCH_IMAGES = 128
DEFAULT_LENGTH = 256


@dataclass(frozen=True)
class DataSet:
    """Sequences with their labels; `is_text` tells windows of tokens, (n, length), from images."""

    name: str
    sha256: str
    inputs: Tensor
    labels: Tensor
    is_text: bool

    @property
    def unit(self) -> str:
        """What the loss is divided by."""
        return "token" if self.is_text else "image"

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, run: Run, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a run's inputs and labels, of the first `limit` sequences."""
        count = len(self) if limit is None else min(limit, len(self))
        size = max(1, _BATCH_TOKENS // self.inputs.shape[1]) if self.is_text else _BATCH_IMAGES
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            inputs = self.inputs[part] if self.is_text else model_pixels(self.inputs[part], run.config)
            yield inputs, self.labels[part]


def open_data(
    runs: list[Run], folder: Path | None, sequences: int, length: int | None, checksums: dict[str, str] | None = None
) -> DataSet:
    """Read held-out data: the validation split of a folder of tokens, or the test images of Fashion-MNIST.

    Without `folder` it is the data that the first run was trained on. Texts are cut into windows of `length` tokens.

    Raises:
        AuditError: there are too few sequences, or the runs do not fit the data.
        DataError: the data cannot be read.
    """
    first = runs[0]
    if not isinstance(first.config, LanguageModelConfig):
        _, images = fashion_mnist.load(folder, checksums or fashion_mnist.SHA256)
        return DataSet(
            "Fashion-MNIST, test", images.sha256(), images.images[:sequences], images.labels[:sequences], False
        )
    trained = first.checkpoint.training.get("config", {}).get("data", {})
    if folder is None and not trained.get("folder"):
        raise AuditError("the checkpoint does not name its data: give --data FOLDER, made by `ddl-data prepare`")
    folder = folder or Path(trained["folder"])
    header = TokensHeader.read(folder)
    for run in runs:
        assert isinstance(run.config, LanguageModelConfig)
        check_vocabulary(run.config.vocab_size, header.vocab_size, str(folder))
    stream = TokenStream.open(folder, header, "validation")
    length = length or trained.get("sequence_length") or DEFAULT_LENGTH
    windows = min(sequences, (len(stream) - 1) // length)
    if windows < 1:
        raise AuditError(f"{folder} has {len(stream)} held-out tokens, fewer than one sequence of {length}")
    starts = range(0, windows * length, length)
    rows = torch.from_numpy(np.stack([stream.read(start, start + length + 1) for start in starts]))
    digest = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    return DataSet(f"{folder.name}, validation", digest, rows[:, :-1], rows[:, 1:], True)
