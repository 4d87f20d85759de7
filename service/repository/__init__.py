"""The model repository: which versions of which models answer."""

from service.repository.loaded import Entry, IndexEntry, Loaded, State
from service.repository.options import Options
from service.repository.repository import Repository

__all__ = ["Entry", "IndexEntry", "Loaded", "Options", "Repository", "State"]
