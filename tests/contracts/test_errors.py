"""Every documented error is provoked by a test: by its slug in an answer, or by its class where it is raised."""

import re
from pathlib import Path

import pytest

from service import errors
from service.api.problems import KINDS
from tests.documents import kinds

# A domain error without a class of its own below these would be answered so; each that exists has one.
BASES = {"unprocessable": errors.UnprocessableRequest, "bundle-refused": errors.BundleError}
CLASSES = {kind.slug: error for error, kind in KINDS.items() if error is not errors.ServiceError}


@pytest.fixture(scope="module")
def tests_text(root: Path) -> str:
    """Return all tests as one text, without this one."""
    files = sorted((root / "tests").rglob("test_*.py"))
    return "\n".join(path.read_text("utf-8") for path in files if path != Path(__file__))


@pytest.mark.parametrize("slug", sorted(kind.slug for kind in kinds()))
def test_every_documented_error_is_provoked(slug: str, tests_text: str) -> None:
    if slug in BASES and BASES[slug].__subclasses__():
        return
    named = rf"""["':]{re.escape(slug)}["']"""
    raised = rf"raises\(\s*\(?[\w, ]*\b{CLASSES[slug].__name__}\b" if slug in CLASSES else named
    assert re.search(named, tests_text) or re.search(raised, tests_text), f"no test provokes {slug}"


def test_every_documented_error_is_in_the_catalogue(root: Path) -> None:
    text = (root / "docs" / "errors.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| \d", text, re.MULTILINE)
    assert sorted(rows) == sorted(kind.slug for kind in kinds())
