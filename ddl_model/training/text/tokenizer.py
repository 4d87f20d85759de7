"""Byte-level BPE: training it, and what the rest of the training needs to know of a tokenizer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ddl_model.training.errors import DataError
from ddl_model.training.text.documents import END_OF_TEXT

SMALLEST_VOCABULARY = 257
"""Every byte, and the end of text."""


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn byte-level BPE with `<|endoftext|>` as token 0. The same documents give the same tokenizer.

    Raises:
        DataError: the text has too few different pieces for so many tokens, or `vocab_size` has no room for all bytes.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(f"a vocabulary of {vocab_size} is too small: bytes and end of text are {SMALLEST_VOCABULARY}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    learned = tokenizer.get_vocab_size()
    if learned != vocab_size:
        raise DataError(
            f"the text has pieces for {learned:,} tokens, {vocab_size:,} are wanted: "
            f"add text, or ask for at most {learned} tokens"
        )
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`, from here or from elsewhere.

    Raises:
        DataError: it cannot be read, is not byte-level, or has no end of text.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return parse_tokenizer(content, str(path))


def parse_tokenizer(content: str, name: str) -> Tokenizer:
    """Make a tokenizer of the content of `tokenizer.json`; `name` is for messages.

    Raises:
        DataError: as `read_tokenizer`.
    """
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{name} is no tokenizer: {error}") from error
    if "ByteLevel" not in json.dumps(json.loads(content).get("decoder")):
        raise DataError(f"{name} is not byte-level, so its tokens cannot be counted in bytes")
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise DataError(f"{name} has no token {END_OF_TEXT}")
    return tokenizer


def end_of_text(tokenizer: Tokenizer) -> int:
    """Return the id of the token between documents."""
    found = tokenizer.token_to_id(END_OF_TEXT)
    assert found is not None  # `parse_tokenizer` and `train_tokenizer` see to it
    return found


def token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return how many bytes of text each token stands for; special tokens stand for none."""
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    special = {token for token, added in _added_tokens(tokenizer) if added["special"]}
    for token, index in tokenizer.get_vocab().items():
        counts[index] = 0 if token in special else len(token)  # byte-level: each letter of a token is one byte
    return counts


def _added_tokens(tokenizer: Tokenizer) -> list[tuple[str, dict[str, Any]]]:
    return [(token["content"], token) for token in json.loads(tokenizer.to_str())["added_tokens"]]
