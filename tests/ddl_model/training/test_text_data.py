"""Text in every form becomes the same tokens; what cannot be read is named; tokens come back as text."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from ddl_model.training.errors import DataError
from ddl_model.training.text import prepare as preparation
from ddl_model.training.text.documents import END_OF_TEXT, find_sources, read_documents
from ddl_model.training.text.prepare import Preparation, prepare_tokens
from ddl_model.training.text.shards import HEADER_NAME, TOKENIZER_NAME, TokensHeader, TokenStream, check_tokens
from ddl_model.training.text.tokenizer import read_tokenizer, token_bytes, train_tokenizer
from tests.ddl_model.training.conftest import VOCABULARY


def texts(folder: Path, split: str) -> list[str]:
    """Return the documents of a split, decoded."""
    header = TokensHeader.read(folder)
    ids = TokenStream.open(folder, header, split).read(0, 10**9).tolist()
    assert ids[0] == ids[-1] == header.end_of_text
    decoded = read_tokenizer(folder / TOKENIZER_NAME).decode(ids, skip_special_tokens=False)
    return decoded.split(END_OF_TEXT)[1:-1]


def test_all_documents_come_back_each_in_one_split(tokens: Path, documents: list[str]) -> None:
    train, validation = texts(tokens, "train"), texts(tokens, "validation")
    assert sorted(train + validation) == sorted(documents)
    assert 1 <= len(validation) <= 15
    assert train == [document for document in documents if document in train]  # in the order of the source
    header = TokensHeader.read(tokens)
    assert header.splits["train"].bytes == sum(len(document.encode()) for document in train)
    assert header.splits["train"].documents == len(train)
    assert len(header.splits["train"].shards) > 2
    check_tokens(tokens, header)


def test_bytes_of_tokens_add_up_to_the_text(tokens: Path) -> None:
    header = TokensHeader.read(tokens)
    sizes = token_bytes(read_tokenizer(tokens / TOKENIZER_NAME))
    for split in header.splits:
        ids = TokenStream.open(tokens, header, split).read(0, 10**9)
        assert sizes[ids].sum() == header.splits[split].bytes
    assert sizes[header.end_of_text] == 0


def test_bytes_of_tokens_are_right_beyond_ascii() -> None:
    text = "Žluťoučký kůň 🐎 naïve 漢字"
    tokenizer = train_tokenizer([text] * 3, 260)
    ids = tokenizer.encode(text).ids
    assert token_bytes(tokenizer)[ids].sum() == len(text.encode())
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("form", ["files", "lines", "parquet", "datasets", "datasets with splits"])
def test_every_form_of_text_gives_the_same_tokens(
    form: str, tokens: Path, documents: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    column = "text"
    if form == "files":
        source.mkdir()
        for number, document in enumerate(documents):
            (source / f"{number:03}.txt").write_text(document, encoding="utf-8")
    elif form == "lines":
        source = tmp_path / "all.jsonl"
        source.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
    elif form == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra data)")
        parquet = pytest.importorskip("pyarrow.parquet")
        column, source = "body", tmp_path / "all.parquet"
        parquet.write_table(pyarrow.table({"n": list(range(len(documents))), "body": documents}), source)
    else:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra data)")
        whole = datasets.Dataset.from_dict({"text": documents})
        if form == "datasets with splits":
            whole = datasets.DatasetDict({"a": whole.select(range(30)), "b": whole.select(range(30, 60))})
        whole.save_to_disk(source)
    header = prepare_tokens([str(source)], tmp_path / "out", Preparation(VOCABULARY, column=column, shard_tokens=2500))
    assert sorted(texts(tmp_path / "out", "train") + texts(tmp_path / "out", "validation")) == sorted(documents)
    if form != "files":  # where each document is a source, one of few is held out
        how = Preparation(VOCABULARY, column=column, validation_fraction=0.1, shard_tokens=2500)
        header = prepare_tokens([str(source)], tmp_path / "again", how)
        assert header.sha256() == TokensHeader.read(tokens).sha256()


def test_doubles_are_dropped_and_both_splits_have_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"one{END_OF_TEXT}two{END_OF_TEXT} one \n{END_OF_TEXT}\n", encoding="utf-8")
    for fraction in (1e-9, 1 - 1e-9):
        out = tmp_path / str(fraction)
        how = Preparation(validation_fraction=fraction, vocab_size=258)
        with pytest.raises(DataError, match="pieces for 25"):
            prepare_tokens([str(tmp_path / "a.txt")], out, Preparation(290, validation_fraction=fraction))
        prepare_tokens([str(tmp_path / "a.txt")], out, how)
        assert sorted(texts(out, "train") + texts(out, "validation")) == ["one", "two"]
        assert len(texts(out, "validation")) == 1


def test_each_large_source_has_a_document_held_out(tmp_path: Path, documents: list[str]) -> None:
    for name, part in (("a", documents[:30]), ("b", documents[30:])):
        (tmp_path / f"{name}.txt").write_text(END_OF_TEXT.join(part), encoding="utf-8")
    prepare_tokens([str(tmp_path)], tmp_path / "out", Preparation(VOCABULARY, validation_fraction=1e-9))
    held_out = texts(tmp_path / "out", "validation")
    assert [document in documents[:30] for document in held_out] == [True, False]


def test_a_tokenizer_from_elsewhere_is_taken_as_it_is(tokens: Path, text_file: Path, tmp_path: Path) -> None:
    how = Preparation(1, tokens / TOKENIZER_NAME, validation_fraction=0.1)
    header = prepare_tokens([str(text_file)], tmp_path / "out", how)
    assert header.vocab_size == VOCABULARY
    assert (tmp_path / "out" / TOKENIZER_NAME).read_bytes() == (tokens / TOKENIZER_NAME).read_bytes()


def test_large_vocabularies_have_wider_tokens() -> None:
    widths = [TokensHeader(size, 0, "", (), {}).dtype for size in (2**16, 2**16 + 1)]
    assert widths == ["uint16", "uint32"]


def test_reading_across_files_is_reading_one_stream() -> None:
    whole = np.arange(100, dtype=np.uint16)
    stream = TokenStream([whole[:7], whole[7:8], whole[8:60], whole[60:]])
    assert len(stream) == 100
    for start, stop in ((0, 100), (6, 9), (7, 8), (8, 60), (59, 61), (99, 100), (90, 200), (40, 40)):
        assert stream.read(start, stop).tolist() == whole[start:stop].tolist()


def test_tokens_appear_whole_or_not_at_all(text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "_encode", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare_tokens([str(text_file)], tmp_path / "out", Preparation(VOCABULARY))
    assert not (tmp_path / "out").exists()
    prepare_tokens([str(text_file)], tmp_path / "out", Preparation(VOCABULARY))
    with pytest.raises(DataError, match="exists already"):
        prepare_tokens([str(text_file)], tmp_path / "out", Preparation(VOCABULARY))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_sources_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "no*.txt"), "no such file or folder, and no file matches"),
        (str(tmp_path / "empty"), r"holds no \.txt, \.md, \.jsonl, \.parquet files"),
        (str(write(tmp_path / "a.pdf", "x")), r"text is read from \.txt"),
    ):
        with pytest.raises(DataError, match=message):
            find_sources([name])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe\xff", "cannot be read: 'utf-8' codec"),
        ("a.jsonl", "{", "line 1: Expecting"),
        ("a.jsonl", '{"text": "x"}\n{"body": "x"}', "line 2 has no 'text': name the text's field with --column"),
        ("a.jsonl", '{"text": 3}', "line 1: expected text, got int"),
        ("a.txt", "only one", "found 1 different documents, but at least 2 are needed"),
        ("a.txt", " \n ", "found 0 different documents"),
    ],
)
def test_text_that_cannot_be_used_is_named(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        prepare_tokens([str(source)], tmp_path / "out", Preparation(VOCABULARY))
    assert not (tmp_path / "out").exists()


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra data)")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        list(read_documents([write(tmp_path / "a.parquet", "no parquet")]))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra data)")
    datasets.Dataset.from_dict({"body": ["x"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no column 'text', it has body: choose with --column"):
        list(read_documents(find_sources([str(tmp_path / "saved")])))
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match="saved cannot be read"):
        list(read_documents([tmp_path / "saved"]))


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("datasets", "saved")])
def test_a_missing_package_is_named_with_its_extra(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    path.mkdir() if name == "saved" else write(path, "")
    with pytest.raises(DataError, match=rf"needs {module}: pip install 'deep-delta-serving\[data\]'"):
        list(read_documents([path]))


def test_changed_tokens_are_noticed(tokens: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tokens, folder)
    header = TokensHeader.read(folder)
    shard = folder / "train-00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"train-00000\.bin was changed"):
        check_tokens(folder, header)
    shard.write_bytes(content[:-2])
    with pytest.raises(DataError, match="has 4998 bytes, expected 5000: prepare the data again"):
        TokenStream.open(folder, header, "train")
    shard.unlink()
    with pytest.raises(DataError, match="is missing"):
        TokenStream.open(folder, header, "train")
    with pytest.raises(DataError, match="cannot be read"):
        check_tokens(folder, header)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no tokens"):
        TokensHeader.read(tmp_path)
    header = tmp_path / HEADER_NAME
    for content, message in (("{", "cannot be read"), ("{}", "cannot be read"), ('{"schema": "x"}', "expected 'ddl")):
        header.write_text(content)
        with pytest.raises(DataError, match=message):
            TokensHeader.read(tmp_path)


def test_tokenizers_that_cannot_be_used_are_named(tokens: Path, tmp_path: Path) -> None:
    content = json.loads((tokens / TOKENIZER_NAME).read_text())
    content["added_tokens"] = []
    del content["model"]["vocab"][END_OF_TEXT]
    content["model"]["vocab"] = {token: n for n, token in enumerate(content["model"]["vocab"])}
    for text, message in (
        ("{", "is no tokenizer"),
        (Tokenizer(models.BPE()).to_str(), "is not byte-level"),
        (json.dumps(content), r"has no token <\|endoftext\|>"),
    ):
        with pytest.raises(DataError, match=message):
            read_tokenizer(write(tmp_path / "t.json", text))
    with pytest.raises(DataError, match="cannot be read"):
        read_tokenizer(tmp_path / "missing.json")
    with pytest.raises(DataError, match="a vocabulary of 100 is too small"):
        train_tokenizer(["x"], 100)
