"""Texts to measure a language model on."""

from pathlib import Path

import numpy as np
import torch

from ddl_model.checkpoint import TOKENIZER_NAME, Checkpoint
from ddl_model.training.errors import DataError
from ddl_model.training.text.documents import find_sources, read_documents
from ddl_model.training.text.shards import HEADER_NAME, TokensHeader, TokenStream
from ddl_model.training.text.tokenizer import end_of_text, parse_tokenizer, read_tokenizer, token_bytes
from ddl_model.training.text_task import check_vocabulary, token_windows
from export.kind import HeldOut


def own_sample(checkpoint: Checkpoint, vocabulary: int, limit: int) -> HeldOut:
    """Return the text that the checkpoint brings along, or its beginning.

    Raises:
        DataError: it has none.
    """
    ids = checkpoint.samples.get("input_ids")
    if ids is None:
        raise DataError("the checkpoint holds no sample: name a text to measure on with --evaluate-on")
    own = ids[:, :limit]
    return HeldOut(f"the checkpoint's own {own.shape[1]} tokens", "tokens", vocabulary, [lambda: (own, None)])


def read_texts(source: Path, checkpoint: Checkpoint, vocabulary: int, length: int, limit: int) -> HeldOut:
    """Read text files by the checkpoint's tokenizer, or the held-out part of a folder of tokens.

    Rows are `length` tokens long, and there are at most `limit` tokens.

    Raises:
        DataError: there is no text, no tokenizer, or the tokens are not those of the model.
    """
    if (source / HEADER_NAME).is_file():
        header = TokensHeader.read(source)
        check_vocabulary(vocabulary, header.vocab_size, str(source))
        bytes_of = token_bytes(read_tokenizer(source / TOKENIZER_NAME))
        stream = TokenStream.open(source, header, "validation")
    else:
        if not checkpoint.tokenizer:
            raise DataError(f"the checkpoint has no {TOKENIZER_NAME}: put one beside it, or name a folder of tokens")
        tokenizer = parse_tokenizer(checkpoint.tokenizer, TOKENIZER_NAME)
        bytes_of = token_bytes(tokenizer)
        end = end_of_text(tokenizer)
        ids = [end]
        for document in read_documents(find_sources([str(source)])):
            ids += [*tokenizer.encode(document, add_special_tokens=False).ids, end]
            if len(ids) > limit:
                break
        stream = TokenStream([np.asarray(ids, np.uint32)])
    if len(stream) < 2:
        raise DataError(f"{source} holds no text")
    windows = token_windows(stream, min(length, limit), limit)
    about = f"{min(len(stream) - 1, limit):,} tokens of text from {source.name}"
    return HeldOut(about, "tokens", vocabulary, windows, torch.from_numpy(bytes_of))
