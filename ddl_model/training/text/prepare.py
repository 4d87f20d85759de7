"""From documents to a folder of token shards: drop doubles, hold some out, learn the tokenizer, encode."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tqdm import tqdm

from ddl_model.training.errors import DataError
from ddl_model.training.files import whole_folder
from ddl_model.training.text.documents import END_OF_TEXT, find_sources, read_documents
from ddl_model.training.text.shards import (
    HEADER_NAME,
    SHARD_TOKENS,
    SPLITS,
    TOKENIZER_NAME,
    ShardWriter,
    Split,
    TokensHeader,
)
from ddl_model.training.text.tokenizer import end_of_text, read_tokenizer, train_tokenizer

_BATCH_CHARACTERS = 1_000_000
"""Text that is encoded at once, so that all cores have work."""
_ENOUGH_DOCUMENTS = 10
"""A source with so many documents has one held out at least, so that the held-out text is of every kind."""


@dataclass(frozen=True)
class Preparation:
    """How text becomes tokens.

    `tokenizer` is a file; without it, one of `vocab_size` tokens is learned from the training documents. Whether a
    document is held out depends on its content and `seed`; of each source with enough documents at least one is.
    """

    vocab_size: int = 8000
    tokenizer: Path | None = None
    validation_fraction: float = 0.01
    column: str = "text"
    seed: int = 0
    shard_tokens: int = SHARD_TOKENS


def prepare_tokens(sources: Sequence[str], out: Path, how: Preparation, *, show_progress: bool = False) -> TokensHeader:
    """Make a folder of token shards. It appears whole or not at all.

    Raises:
        DataError: there is no text or too little of it, the folder exists, or a source cannot be read.
    """
    if out.exists():
        raise DataError(f"{out} exists already: choose another folder, or remove it first")
    if not 0 < how.validation_fraction < 1:
        raise DataError(f"the validation fraction must be between 0 and 1, got {how.validation_fraction}")
    paths = find_sources(sources)
    division = _Division(paths, how)

    def documents(split: str, what: str) -> Iterator[str]:
        chosen = division.select(read_documents(paths, how.column), split)
        return iter(tqdm(chosen, what, division.count(split), unit=" documents", disable=not show_progress))

    if how.tokenizer:
        tokenizer = read_tokenizer(how.tokenizer)
    else:
        tokenizer = train_tokenizer(documents("train", "learning tokens"), how.vocab_size)
    content, size, end = tokenizer.to_str(pretty=True), tokenizer.get_vocab_size(), end_of_text(tokenizer)
    digest = hashlib.sha256(content.encode()).hexdigest()
    header = TokensHeader(size, end, digest, tuple(str(path) for path in paths), {})
    with whole_folder(out) as folder:
        (folder / TOKENIZER_NAME).write_text(content, encoding="utf-8")
        for split in SPLITS:
            writer = ShardWriter(folder, split, header.dtype, how.shard_tokens)
            header.splits[split] = _encode(documents(split, f"encoding {split}"), tokenizer, writer, end)
        (folder / HEADER_NAME).write_text(json.dumps(header.to_dict(), indent=2) + "\n", encoding="utf-8")
    return header


class _Division:
    """Which documents are held out, by a digest of their text, so that doubles go the same way."""

    def __init__(self, sources: Sequence[Path], how: Preparation) -> None:
        """Look at every document once; at least one is held out and one is not."""
        self._seed = how.seed
        limit = int(how.validation_fraction * 2**128)
        self._held_out: dict[bytes, bool] = {}
        for source in sources:
            digests = {self._digest(document) for document in read_documents([source], how.column)} - {*self._held_out}
            chosen = {digest: int.from_bytes(digest, "big") < limit for digest in digests}
            if len(chosen) >= _ENOUGH_DOCUMENTS and not any(chosen.values()):
                chosen[min(chosen)] = True
            self._held_out.update(chosen)
        if len(self._held_out) < len(SPLITS):
            raise DataError(
                f"found {len(self._held_out)} different documents, but at least 2 are needed, one of them to be held "
                f"out: give more files, or put {END_OF_TEXT} between the documents of a file"
            )
        if self.count("validation") == 0:
            self._held_out[min(self._held_out)] = True
        if self.count("train") == 0:
            self._held_out[max(self._held_out)] = False

    def count(self, split: str) -> int:
        """Return the number of different documents in a split."""
        held_out = sum(self._held_out.values())
        return held_out if split == "validation" else len(self._held_out) - held_out

    def select(self, documents: Iterable[str], split: str) -> Iterator[str]:
        """Yield each different document of a split once, in the order of the sources."""
        seen: set[bytes] = set()
        for document in documents:
            digest = self._digest(document)
            if digest not in seen and self._held_out[digest] == (split == "validation"):
                seen.add(digest)
                yield document

    def _digest(self, document: str) -> bytes:
        return hashlib.sha256(f"{self._seed}\n{document}".encode()).digest()[:16]


def _encode(documents: Iterable[str], tokenizer: Tokenizer, writer: ShardWriter, end: int) -> Split:
    """Write a split's stream: end of text, then each document with an end of text behind it."""
    count = size = tokens = 0
    writer.write([end])
    for batch in _batches(documents):
        for document, encoding in zip(batch, tokenizer.encode_batch_fast(batch, add_special_tokens=False), strict=True):
            writer.write([*encoding.ids, end])
            count, size, tokens = count + 1, size + len(document.encode()), tokens + len(encoding.ids) + 1
    return Split(count, size, tokens + 1, writer.close())


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
