"""What can be asked of the models: by name, version and alias, all at once, or as the protocol's index."""

from collections.abc import Iterator

from service.errors import ModelNotReady, UnknownModel, UnknownVersion
from service.repository.aliases import Target
from service.repository.loaded import Entry, IndexEntry, Loaded
from service.repository.model import Model


class Directory:
    """The models and their other names; it changes nothing."""

    def __init__(self) -> None:
        """Start without models."""
        self._models: dict[str, Model] = {}
        self._aliases: dict[str, Target] = {}
        self._first: frozenset[str] = frozenset()
        self._table: dict[tuple[str, str | None], Loaded] = {}

    def get(self, name: str, version: str | None = None) -> Loaded:
        """Return the model that answers under this name, which may be an alias.

        Raises:
            UnknownModel: there is no such name.
            UnknownVersion: it has no such version, or another one is served.
            ModelNotReady: it is still being loaded, was refused, or is not loaded.
        """
        loaded = self._table.get((name, version or None))
        if loaded is not None:
            return loaded
        entry = self.entry(name, version)
        reason = entry.reason or ("it is being loaded" if entry.state == "loading" else "it is not loaded")
        raise ModelNotReady(f"model {name!r} version {entry.version} is not ready: {reason}", reason=reason)

    def entry(self, name: str, version: str | None = None) -> Entry:
        """Return what is known of a model, ready or not.

        Raises:
            UnknownModel: there is no such name.
            UnknownVersion: it has no such version, or another one is served.
        """
        target = self._aliases.get(name, Target(name))
        model = self._models.get(target.name)
        if model is None or not model.versions:
            raise self._unknown(name)
        if version and target.version and version != target.version:
            raise UnknownVersion(
                f"{name!r} stands for version {target.version} of {target.name!r} alone", known=[target.version]
            )
        asked = version or target.version
        return _find(model, asked) if asked else _foremost(model)

    def entries(self) -> list[Entry]:
        """Return what answers, was refused, or is being loaded or unloaded, by name and number."""
        return [entry for entry in self._all() if entry.state != "unloaded"]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model or alias that answer, oldest first."""
        target = self._aliases.get(name, Target(name))
        model = self._models.get(target.name)
        answering = [str(number) for number in model.answering] if model is not None else []
        return [version for version in answering if target.version in (None, version)]

    def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """Return every version in the repository with its state; with `ready` those alone that answer."""
        return [
            IndexEntry(entry.name, entry.version, entry.protocol_state, entry.reason)
            for entry in self._all()
            if entry.state == "ready" or not ready
        ]

    def unready(self) -> dict[str, str]:
        """Return the models for which the service is not ready yet, with the reasons.

        These are the models that were found at the start and should answer, and have no version that does. A model
        that came later and was refused is no reason to take the others out of traffic.
        """
        models = [model for name, model in sorted(self._models.items()) if name in self._first and model.is_wanted]
        waiting = {model.name: _foremost(model) for model in models if model.versions and not model.answering}
        return {name: entry.reason or "loading" for name, entry in waiting.items()}

    def _all(self) -> Iterator[Entry]:
        for _, model in sorted(self._models.items()):
            for _, entry in sorted(model.versions.items()):
                yield entry

    def _rebuild(self) -> None:
        """Let `get` answer with what there is now, all at once."""
        table: dict[tuple[str, str | None], Loaded] = {}
        for name, model in self._models.items():
            for number, loaded in model.answering.items():  # the newest is the last
                table[name, str(number)] = table[name, None] = loaded
        for alias, target in self._aliases.items():
            numbers = self.versions(alias)
            for version in numbers:
                table[alias, version] = table[alias, None] = table[target.name, version]
        self._table = table

    def _unknown(self, name: str) -> UnknownModel:
        known = sorted({name for name, model in self._models.items() if model.versions} | self._aliases.keys())
        return UnknownModel(f"no model {name[:64]!r}; known: {', '.join(known) or 'none'}", known=known)


def _find(model: Model, version: str) -> Entry:
    served = [str(number) for number in model.answering]
    known = {entry.version: entry for entry in model.versions.values()}
    if version in known and not (known[version].state == "unloaded" and served):
        return known[version]
    place = "in the repository" if version in known else "unknown"
    answers = f"version {', '.join(served)} is served" if served else "no version is served"
    raise UnknownVersion(f"version {version[:16]!r} of {model.name!r} is {place}; {answers}", known=served)


def _foremost(model: Model) -> Entry:
    """Return the version that answers for the model, or else the one that should."""
    entries = [entry for _, entry in sorted(model.versions.items(), reverse=True)]
    for state in ("ready", "loading", "refused", "unloading"):
        for entry in entries:
            if entry.state == state:
                return entry
    return entries[0]
