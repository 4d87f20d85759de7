"""The commands of docs/training.md that are marked as tried do what the document says, in its order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddl_model.checkpoint import read_checkpoint
from ddl_model.training.recipes import RECIPES
from tests.ddl_model.training.commands import ENVIRONMENT

_BLOCK = re.compile(r"^```(\w+)( tried)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "ddl-train": "ddl_model.training",
    "ddl-eval": "ddl_model.training.evaluation",
    "ddl-data": "ddl_model.training.text",
    "ddl-export": "export",
    "ddl-serve": "service",
}


@pytest.fixture(scope="module")
def place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the text that the document trains on, and the programs on the path."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "bin").mkdir()
    (folder / "docs").mkdir()
    for source in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        (folder / source.relative_to(root)).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for name, module in PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    return folder


@pytest.mark.timeout(600)  # a dozen programs, one after the other
def test_the_tried_commands_run_as_printed(root: Path, place: Path) -> None:
    document = (root / "docs" / "training.md").read_text(encoding="utf-8")
    commands = [text for kind, tried, text in _BLOCK.findall(document) if kind == "bash" and tried]
    assert len(commands) >= 5
    environment = ENVIRONMENT | {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    printed = ""
    for command in commands:
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        printed += done.stdout + done.stderr
    assert read_checkpoint(place / "runs" / "text-tiny").training["finished"]
    for promised in (
        r"Held-out perplexity [\d.]+, [\d.]+ bits per byte",
        r"step 60: train loss",
        r"bits per byte    \d",
        r"The gate",
        r"Wrote models/tiny/1",
        r'"object":"text_completion"',
        r"data/text-512: vocabulary of 512",
        r'"width": 256',
        r"did you mean optimizer\.learning_rate\?",
    ):
        assert re.search(promised, printed), promised


def test_every_recipe_and_option_is_described(root: Path) -> None:
    document = (root / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in document for name in RECIPES)
    for option in ("--set", "--resume", "--devices", "--nodes", "--strategy", "--precision", "--prepare", "--text"):
        assert option in document
