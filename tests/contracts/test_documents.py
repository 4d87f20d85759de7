"""Settings, metrics and errors in the documents are those of the code."""

import re
from pathlib import Path

import pytest

from service import errors
from service.api.problems import KINDS
from service.settings import Settings
from service.settings.fields import GROUPS
from tests import documents


@pytest.mark.parametrize("name", list(documents.PARTS))
def test_a_generated_part_follows_the_code(name: str, root: Path) -> None:
    document, generate = documents.PARTS[name]
    found = documents.part((root / document).read_text("utf-8"), name)
    assert found == generate(found), f"run `python -m tests.documents`, and read what it changed in {document}"


def test_every_setting_is_in_a_group_and_documented(root: Path) -> None:
    named = [name for group in GROUPS for name in group.model_fields]
    assert sorted(named) == sorted(Settings.model_fields)
    text = (root / "docs/operations.md").read_text("utf-8")
    for name in named:
        assert f"| `{name}` |" in text


def test_every_error_has_its_row_and_each_row_says_what_to_do(root: Path) -> None:
    text = documents.part((root / "docs/errors.md").read_text("utf-8"), "errors")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert {slug for slug, _ in rows} == {kind.slug for kind in documents.kinds()}
    for slug, advice in rows:
        assert len(advice.split()) >= 4, f"docs/errors.md: say when {slug} comes and what to do"


def test_every_class_of_errors_has_a_kind_of_its_own() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type)}
    assert set(KINDS) == classes
    assert len({kind.slug for kind in documents.kinds()}) == len(documents.kinds())
