"""What an operator decides for the whole repository."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from service.repository.config import Serving
from service.repository.opening import Device
from service.signing.trust import TrustedKeys

Control = Literal["none", "poll", "explicit"]


@dataclass(frozen=True)
class Options:
    """How the repository is run.

    Args:
        device: where models run.
        defaults: how a model is served that has no `config.toml`.
        control: `none` loads at the start and changes nothing; `poll` looks for changes every `poll_seconds`;
            `explicit` loads and unloads on demand.
        poll_seconds: time between two looks.
        startup_models: names to load at the start under `explicit` control, where `*` is all.
        trusted: with keys, only bundles that one of them signed are served.
        memory_limit_bytes: of all models together; 0 is no limit.
        load_seconds: longest time of one run of the golden samples, or of the warm-up.
        unload_seconds: longest time that a version which was replaced or unloaded may take to answer what is left.
        load_threads: models that are opened at the same time.
        cache: folder for what comes from a remote store.
        gates_live_share: part of the time that may go into live statistics of gates; 0 is none.
    """

    device: Device = field(default_factory=Device)
    defaults: Serving = field(default_factory=Serving)
    control: Control = "none"
    poll_seconds: float = 15.0
    startup_models: Collection[str] = ("*",)
    trusted: TrustedKeys | None = None
    memory_limit_bytes: int = 0
    load_seconds: float = 60.0
    unload_seconds: float = 30.0
    load_threads: int = 2
    cache: Path = Path("~/.cache/ddl-serve")
    gates_live_share: float = 0.02
