"""The tests that docs/gates.md names for each promise are there."""

import re
from pathlib import Path


def test_every_promise_names_tests_that_exist(root: Path) -> None:
    text = (root / "docs/gates.md").read_text("utf-8").partition("## What holds it")[2]
    rows = re.findall(r"^\| ([\d, ]+) \| .* \| (.*) \|$", text, re.MULTILINE)
    assert [int(n) for numbers, _ in rows for n in numbers.split(",")] == list(range(1, 31))
    for _, tests in rows:
        found = re.findall(r"`([^`]+)::([^`]+)`", tests)
        assert found
        for file, name in found:
            assert f"\ndef {name}(" in (root / "tests" / file).read_text("utf-8"), f"{file} has no {name}"
