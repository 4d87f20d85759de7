"""Keep what `torch.compile` stores on disk apart from what the operators compute today.

A composite operator is one node to `torch.compile`, whose caches on disk (`torch.compiler.config`) know a graph by its
nodes alone. After a change of a formula, or with other kernels behind an operator, they would answer with code compiled
before, without a word. So the formulas are part of the key of every entry.
"""

import hashlib
from pathlib import Path

import torch

_SEPARATOR = "+"


def mark(part: str) -> None:
    """Add a part to the key of what is compiled from now on; a part counts once."""
    parts = _parts()
    if part not in parts:
        _keep([*parts, part])


def unmark(part: str) -> None:
    """Take a part out of the key again."""
    _keep([other for other in _parts() if other != part])


def sources(*files: str | Path) -> str:
    """Return a part of the key for source files: the name of the first, and a hash of all."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return f"{Path(files[0]).stem}-{digest.hexdigest()[:16]}"


def _parts() -> list[str]:
    tag: str = torch.compiler.config.cache_key_tag
    return tag.split(_SEPARATOR) if tag else []


def _keep(parts: list[str]) -> None:
    torch.compiler.config.cache_key_tag = _SEPARATOR.join(parts)
