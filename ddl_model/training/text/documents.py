"""Documents out of text files, JSON lines, parquet and Hugging Face `datasets` folders, always in the same order."""

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ddl_model.training.errors import DataError

END_OF_TEXT = "<|endoftext|>"
"""Token between documents; where it stands in a text, the text is split there."""

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")
_INSTALL = "pip install 'deep-delta-serving[data]'"


def find_sources(names: Sequence[str]) -> list[Path]:
    """Return the files and `datasets` folders that paths, folders and glob patterns stand for.

    A folder stands for all text files below it, unless `datasets` saved it.

    Raises:
        DataError: a name stands for nothing, or for a file of another kind.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir() and any((path / file).is_file() for file in _DATASET_FILES):
            found.append(path)
        elif path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]
            if not files:
                raise DataError(f"{path} holds no {', '.join(SUFFIXES)} files and no folder saved by datasets")
            found += files
        elif matches := sorted(glob.glob(name, recursive=True)):
            found += [Path(match) for match in matches]
        else:
            raise DataError(f"{name}: no such file or folder, and no file matches it as a pattern")
    for path in found:
        if path.is_file() and path.suffix not in SUFFIXES:
            raise DataError(f"{path}: text is read from {', '.join(SUFFIXES)} and folders saved by datasets")
    return list(dict.fromkeys(found))


def read_documents(sources: Sequence[Path], column: str = "text") -> Iterator[str]:
    """Yield the documents of all sources: no empty ones, none with the end-of-text token in it.

    A text file is one document, or several with `<|endoftext|>` between them. The rows of the other kinds are
    documents; `column` names their text.

    Raises:
        DataError: a source cannot be read or has no such column.
    """
    for source in sources:
        for text in _read(source, column):
            for part in text.split(END_OF_TEXT):
                if document := part.strip():
                    yield document


def _read(source: Path, column: str) -> Iterator[str]:
    try:
        if source.is_dir():
            yield from _read_dataset(source, column)
        elif source.suffix == ".parquet":
            yield from _read_parquet(source, column)
        elif source.suffix == ".jsonl":
            yield from _read_json_lines(source, column)
        else:
            yield source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def _read_json_lines(source: Path, column: str) -> Iterator[str]:
    with source.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{source}, line {number}: {error}") from error
            if not isinstance(row, dict) or column not in row:
                raise DataError(f"{source}, line {number} has no {column!r}: name the text's field with --column")
            yield _as_text(row[column], f"{source}, line {number}")


def _read_parquet(source: Path, column: str) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"reading {source} needs pyarrow: {_INSTALL}") from error
    try:
        file = pyarrow.parquet.ParquetFile(source)
        _require_column(column, file.schema_arrow.names, source)
        for batch in file.iter_batches(columns=[column]):
            for value in batch.column(0).to_pylist():
                yield _as_text(value, str(source))
    except pyarrow.ArrowException as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def _read_dataset(source: Path, column: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"reading {source} needs datasets: {_INSTALL}") from error
    try:
        loaded = datasets.load_from_disk(str(source))
    except Exception as error:  # whatever a damaged folder comes to
        raise DataError(f"{source} cannot be read: {error}") from error
    parts = [loaded[name] for name in sorted(loaded)] if isinstance(loaded, datasets.DatasetDict) else [loaded]
    for part in parts:
        _require_column(column, part.column_names, source)
        for row in part.select_columns(column):
            yield _as_text(row[column], str(source))


def _require_column(column: str, names: Sequence[str], source: Path) -> None:
    if column not in names:
        raise DataError(f"{source} has no column {column!r}, it has {', '.join(names)}: choose with --column")


def _as_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, got {type(value).__name__}")
    return value
