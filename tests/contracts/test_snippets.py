"""The Python snippets of the documents run as they are printed, one after the other."""

import re
import warnings
from pathlib import Path

import pytest

_SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", ["docs/ddl_model.md"])
def test_the_snippets_run(document: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    snippets = _SNIPPET.findall((root / document).read_text(encoding="utf-8"))
    assert len(snippets) >= 5
    names: dict[str, object] = {"__name__": "snippet"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, snippet in enumerate(snippets, start=1):
            exec(compile(snippet, f"{document}, snippet {number}", "exec"), names)
