"""Which models and versions there are."""

from typing import Any

from service.repository import Loaded, Repository


def models_that_answer(repository: Repository) -> list[Loaded]:
    """Return every model version that answers, by name and version."""
    return [entry.loaded for entry in repository.entries() if entry.loaded is not None]


def repository_index(repository: Repository, *, ready: bool) -> list[dict[str, Any]]:
    """Return the index of the model repository extension: every version, or with `ready` those alone that answer."""
    return [line._asdict() for line in repository.index(ready=ready)]
