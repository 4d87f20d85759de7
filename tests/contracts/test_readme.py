"""The commands of README and API document, run as printed against a service started as it starts for everybody."""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_service import running_service

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARYING = {"timing_ms", "request_id"}


DOCUMENTS = ("README.md", "docs/api.md")


def blocks(root: Path, document: str) -> list[tuple[str, str]]:
    return _BLOCK.findall((root / document).read_text(encoding="utf-8"))


def curls(root: Path, document: str) -> list[tuple[str, str]]:
    """Return each `curl` command of a document with the answer printed below it."""
    found = blocks(root, document)
    return [
        (text, answer)
        for (kind, text), (answer_kind, answer) in itertools.pairwise(found)
        if (kind, answer_kind) == ("bash", "json") and re.search(r"^(curl |[^#]*\| curl )", text)
    ]


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    """Return the address of a service over `models/`."""
    with running_service(root) as base:
        yield base


def test_the_readme_shows_the_commands(root: Path) -> None:
    assert all(len(curls(root, document)) >= 3 for document in DOCUMENTS)
    commands = "".join(text for kind, text in blocks(root, "README.md") if kind == "bash")
    assert "make serve" in commands
    assert "make test" in commands


def test_every_make_target_that_documents_name_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for document in (root / "README.md", *(root / "docs").glob("*.md")):
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8")))
        assert named <= targets, document


def test_every_linked_file_exists(root: Path) -> None:
    for document in (root / "README.md", *(root / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_curl_answers_as_printed(root: Path, url: str, document: str) -> None:
    for command, printed in curls(root, document):
        done = subprocess.run(
            ["bash", "-c", command.replace("http://127.0.0.1:8000", url)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        differences = list(differing(json.loads(done.stdout), json.loads(printed), "answer"))
        assert not differences, f"{command}\n{differences}\n{done.stdout}"


def differing(actual: Any, printed: Any, where: str) -> Iterator[str]:
    """Yield the places where an answer is not what the README prints; times and request ids may differ."""
    if isinstance(printed, dict) and isinstance(actual, dict):
        if actual.keys() != printed.keys():
            yield f"{where}: keys {sorted(actual.keys() ^ printed.keys())} are not in both"
        for key in printed.keys() & actual.keys() - _VARYING:
            yield from differing(actual[key], printed[key], f"{where}.{key}")
    elif isinstance(printed, list) and isinstance(actual, list):
        if len(actual) != len(printed):
            yield f"{where}: {len(actual)} items, printed are {len(printed)}"
        for index, (a, p) in enumerate(zip(actual, printed, strict=False)):
            yield from differing(a, p, f"{where}[{index}]")
    elif isinstance(printed, str) and isinstance(actual, str) and (number := re.match(r"-?[0-9.]+(?=:)", printed)):
        value, _, name = actual.partition(":")
        if name != printed[number.end() + 1 :] or abs(float(value) - float(number[0])) > 1e-3:
            yield f"{where}: {actual!r}, printed is {printed!r}"
    elif isinstance(printed, float):
        if not isinstance(actual, int | float) or abs(actual - printed) > 1e-3:
            yield f"{where}: {actual}, printed is {printed}"
    elif actual != printed:
        yield f"{where}: {actual!r}, printed is {printed!r}"
