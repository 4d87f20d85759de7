"""From a bundle on disk to sessions that have proved themselves. Everything here blocks: it is called in threads.

How a bundle is opened depends on its task: `OPENERS` has a row for each that this service answers for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.bundle import Bundle, Classification, read_bundle
from service.errors import BundleDisagrees, BundleError, BundleInvalid
from service.manifest.manifest import Task
from service.repository.config import Serving
from service.repository.stores.store import FoundVersion
from service.runtime.golden import read_samples, replay
from service.runtime.kernel_library import KernelChoice, choose_kernel, plain
from service.runtime.session import CPU, OrtSession, Session, check_graph
from service.signing.trust import TrustedKeys


@dataclass(frozen=True)
class Device:
    """Where models run: ONNX Runtime's name of the device, and which op library is wanted."""

    provider: str = CPU
    kernel_library: str = "auto"


@dataclass(frozen=True)
class Opened:
    """Sessions that reproduce the golden samples, and the largest difference from these."""

    sessions: tuple[Session, ...]
    golden_difference: float


Opener = Callable[[Bundle, Device, Serving, float], Opened]
"""Opens a bundle; the last argument is the time for each run of the model, in seconds."""


def verify(folder: Path, found: FoundVersion, trusted: TrustedKeys | None) -> Bundle:
    """Read a bundle after everything that can be verified without opening its graphs.

    Raises:
        BundleError: a checksum, the signature (with `trusted` keys), the manifest, the name or the task is not right.
    """
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    if trusted is not None:
        trusted.verify(folder, found.name, str(found.number))
    if manifest.name != found.name:
        raise BundleInvalid(f"the manifest says {manifest.name!r}, the folder {found.name!r}")
    if type(manifest.task) not in OPENERS:
        raise BundleError(f"its task is {manifest.task.kind}: this service answers for image classifiers alone")
    return bundle


def open_bundle(bundle: Bundle, device: Device, serving: Serving, seconds: float) -> Opened:
    """Open a verified bundle, replay its golden samples, warm it up; `seconds` is the time for each run of the model.

    Raises:
        BundleError: the graph cannot be opened, or does not give the recorded numbers.
        ModelFailed: it cannot be run, or not in time.
        ProviderUnavailable: the device cannot be used.
    """
    return OPENERS[type(bundle.manifest.task)](bundle, device, serving, seconds)


def open_graph(bundle: Bundle, device: Device, serving: Serving, seconds: float) -> Opened:
    """Open the bundle's one graph, a session for each instance."""
    kernel = choose_kernel(device.kernel_library, bundle.manifest.graph.custom_ops, device.provider)
    sessions, worst = [], 0.0
    for _ in range(serving.limits.instances):
        session, difference = _prove(bundle, device.provider, serving.threads, kernel, seconds)
        if serving.warm_up:
            _warm_up(session, bundle, serving, seconds)
        kernel = session.kernel  # a kernel that failed once need not be tried for the next
        sessions.append(session)
        worst = max(worst, difference)
    return Opened(tuple(sessions), worst)


OPENERS: Mapping[type[Task], Opener] = {Classification: open_graph}


def _prove(bundle: Bundle, provider: str, threads: int, kernel: KernelChoice, seconds: float) -> tuple[Session, float]:
    """Open a session and replay; a kernel that gives other numbers than were recorded yields to the plain body."""
    providers = [provider] if provider == CPU else [provider, CPU]
    session = OrtSession(bundle.graph_path, providers=providers, threads=threads, kernel=kernel)
    check_graph(session, bundle.manifest.graph, bundle.graph_path)
    try:
        return session, replay(session, bundle.golden_path, bundle.manifest.golden, seconds=seconds)
    except BundleDisagrees as error:
        if session.kernel.path == "plain":
            raise
        reason = f"{session.kernel.library} is not used: with its kernels, {error}"
    return _prove(bundle, provider, threads, plain(reason), seconds)


def _warm_up(session: Session, bundle: Bundle, serving: Serving, seconds: float) -> None:
    """Run each batch size that will come: the first run of a shape takes longer than the next."""
    graph = bundle.manifest.graph
    if any(spec.shape[0] != -1 for spec in graph.inputs):
        return
    samples, recorded = read_samples(session, bundle.golden_path, bundle.manifest.golden)
    outputs = [spec.name for spec in graph.outputs if spec.name in recorded]
    for rows in serving.limits.bucket_rows or sorted({1, serving.limits.max_rows}):
        feeds = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in samples.items()}
        session.run(feeds, outputs, seconds=seconds)
