"""Token shards: a folder of flat integer files that are mapped into memory, described by one JSON file.

A split is one stream of tokens, cut into files: end-of-text, document, end-of-text, document, ..., end-of-text.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ddl_model.training.errors import DataError

SCHEMA = "ddl.tokens/1"
HEADER_NAME = "tokens.json"
TOKENIZER_NAME = "tokenizer.json"
SHARD_TOKENS = 100_000_000
SPLITS = ("train", "validation")

Tokens = npt.NDArray[Any]
"""Unsigned integers of 16 or 32 bits."""


@dataclass(frozen=True)
class Shard:
    """One file of tokens."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """A stream of tokens. `bytes` counts the UTF-8 bytes of its documents."""

    documents: int
    bytes: int
    tokens: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class TokensHeader:
    """What a folder of token shards holds. `tokenizer_sha256` is that of `tokenizer.json` beside the shards."""

    vocab_size: int
    end_of_text: int
    tokenizer_sha256: str
    sources: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def dtype(self) -> str:
        """Name of the integers in the files, little-endian."""
        return "uint16" if self.vocab_size <= 2**16 else "uint32"

    def sha256(self) -> str:
        """Return a hash of all tokens and of the tokenizer that made them."""
        shards = [shard.sha256 for name in SPLITS for shard in self.splits[name].shards]
        return hashlib.sha256("\n".join([self.tokenizer_sha256, *shards]).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"schema": SCHEMA, "dtype": self.dtype, **asdict(self), "sha256": self.sha256()}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of a folder.

        Raises:
            DataError: there is none, or it is damaged or of another format.
        """
        path = folder / HEADER_NAME
        if not path.is_file():
            raise DataError(f"{folder} holds no tokens ({HEADER_NAME} is missing): make it with `ddl-data prepare`")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise DataError(f"{path} has schema {content['schema']!r}, expected {SCHEMA!r}")
            splits = {
                name: Split(s["documents"], s["bytes"], s["tokens"], tuple(Shard(**shard) for shard in s["shards"]))
                for name, s in ((name, content["splits"][name]) for name in SPLITS)
            }
            sources = tuple(content["sources"])
            header = cls(content["vocab_size"], content["end_of_text"], content["tokenizer_sha256"], sources, splits)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read: {error!r}") from error
        return header


class TokenStream:
    """Tokens in a row, in as many pieces as there are."""

    def __init__(self, shards: Sequence[Tokens]) -> None:
        """Take arrays of tokens as one stream."""
        self._shards = list(shards)
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    @classmethod
    def open(cls, folder: Path, header: TokensHeader, split: str) -> Self:
        """Map the files of a split into memory: reading takes what is read and no more.

        Raises:
            DataError: a file is missing or has another length than the header says.
        """
        kind = np.dtype(header.dtype).newbyteorder("<")
        shards = []
        for shard in header.splits[split].shards:
            path = folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.tokens * kind.itemsize:
                found = "is missing" if size is None else f"has {size} bytes, expected {shard.tokens * kind.itemsize}"
                raise DataError(f"{path} {found}: prepare the data again")
            shards.append(np.memmap(path, dtype=kind, mode="r"))
        return cls(shards)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return tokens, from as many files as they lie in."""
        parts = []
        first = int(np.searchsorted(self._ends, start, side="right"))
        for number in range(first, len(self._shards)):
            begin = int(self._ends[number]) - len(self._shards[number])
            if begin >= stop:
                break
            parts.append(self._shards[number][max(0, start - begin) : stop - begin])
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


class ShardWriter:
    """Writes one split's tokens into files of at most `shard_tokens`."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int = SHARD_TOKENS) -> None:
        """Start without a file."""
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, shard_tokens
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_tokens = 0
        self._shards: list[Shard] = []

    def write(self, tokens: Iterable[int]) -> None:
        """Append tokens to the stream."""
        array = np.fromiter(tokens, dtype=np.dtype(self._dtype).newbyteorder("<"))
        while len(array):
            taken = array[: self._limit - self._pending_tokens]
            self._pending.append(taken)
            self._pending_tokens += len(taken)
            array = array[len(taken) :]
            if self._pending_tokens == self._limit:
                self._flush()

    def close(self) -> tuple[Shard, ...]:
        """Write what is left and return all files."""
        if self._pending_tokens:
            self._flush()
        return tuple(self._shards)

    def _flush(self) -> None:
        content = np.concatenate(self._pending).tobytes()
        name = f"{self._split}-{len(self._shards):05d}.bin"
        (self._folder / name).write_bytes(content)
        self._shards.append(Shard(name, self._pending_tokens, hashlib.sha256(content).hexdigest()))
        self._pending, self._pending_tokens = [], 0


def check_tokens(folder: Path, header: TokensHeader) -> None:
    """Read every file of the folder and compare its hash.

    Raises:
        DataError: a file is missing or changed.
    """
    expected = [(TOKENIZER_NAME, header.tokenizer_sha256)]
    expected += [(shard.file, shard.sha256) for split in header.splits.values() for shard in split.shards]
    for name, digest in expected:
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error}") from error
        if actual != digest:
            raise DataError(f"{folder / name} was changed: SHA-256 {actual}, expected {digest}")
