"""From a bundle on disk to sessions that have proved themselves. Everything here blocks: it is called in threads.

How a bundle is opened depends on its task: `OPENERS` has a row for each that this service answers for.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from service.bundle import Bundle, Classification, LanguageModelling, StepGraph, read_bundle
from service.chat import ChatTemplate
from service.errors import BundleDisagrees, BundleError, BundleInvalid
from service.manifest.manifest import Task
from service.repository.config import Serving
from service.repository.stores.store import FoundVersion
from service.runtime.golden import read_samples, replay, replay_steps
from service.runtime.kernel_library import KernelChoice, choose_kernel, plain
from service.runtime.session import CPU, OrtSession, Session, check_graph
from service.runtime.step_session import StepSession
from service.signing.trust import TrustedKeys
from service.text import TextTokenizer


@dataclass(frozen=True)
class Device:
    """Where models run: ONNX Runtime's name of the device, and which op library is wanted."""

    provider: str = CPU
    kernel_library: str = "auto"

    @property
    def providers(self) -> list[str]:
        """The runtime's providers in the order of preference."""
        return [self.provider] if self.provider == CPU else [self.provider, CPU]


@dataclass(frozen=True)
class Opened:
    """Sessions that reproduce the golden samples, and the largest difference from these.

    `step`, `tokenizer` and `template` are a language model's, where its bundle has them.
    """

    sessions: tuple[Session, ...]
    golden_difference: float
    step: StepSession | None = None
    tokenizer: TextTokenizer | None = None
    template: ChatTemplate | None = None


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
        raise BundleError(f"its task is {manifest.task.kind}: this service does not answer for such models")
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
    graph, golden = bundle.manifest.graph, bundle.manifest.golden

    def open_with(kernel: KernelChoice) -> OrtSession:
        session = OrtSession(bundle.graph_path, providers=device.providers, threads=serving.threads, kernel=kernel)
        check_graph(session, graph, bundle.graph_path)
        return session

    kernel = choose_kernel(device.kernel_library, graph.custom_ops, device.provider)
    sessions, worst = [], 0.0
    for _ in range(serving.limits.instances):
        session, difference = _prove(
            open_with, lambda session: replay(session, bundle.golden_path, golden, seconds=seconds), kernel
        )
        if serving.warm_up:
            _warm_up(session, bundle, serving, seconds)
        kernel = session.kernel  # a kernel that failed once need not be tried for the next
        sessions.append(session)
        worst = max(worst, difference)
    return Opened(tuple(sessions), worst)


def open_classifier(bundle: Bundle, device: Device, serving: Serving, seconds: float) -> Opened:
    """Open the one graph, and load the decoders of images, which a service without classifiers need not hold."""
    importlib.import_module("service.image")
    return open_graph(bundle, device, serving, seconds)


def open_language_model(bundle: Bundle, device: Device, serving: Serving, seconds: float) -> Opened:
    """Open the graph of whole texts like any other, and the graph of a step if there is one."""
    task = bundle.manifest.task
    assert isinstance(task, LanguageModelling), "a row of OPENERS gets bundles of its own task"
    tokenizer = None if task.tokenizer is None else TextTokenizer.read(bundle.folder / task.tokenizer)
    template = None if task.chat_template is None else ChatTemplate.read(bundle.folder / task.chat_template)
    opened = replace(open_graph(bundle, device, serving, seconds), tokenizer=tokenizer, template=template)
    if task.step is None:
        return opened
    step, difference = _open_step(bundle, task.step, device, serving.threads, seconds)
    return replace(opened, step=step, golden_difference=max(opened.golden_difference, difference))


def _open_step(
    bundle: Bundle, step: StepGraph, device: Device, threads: int, seconds: float
) -> tuple[StepSession, float]:
    path, golden = bundle.folder / step.graph.file, bundle.folder / step.golden.file

    def open_with(kernel: KernelChoice) -> StepSession:
        session = StepSession(path, providers=device.providers, threads=threads, kernel=kernel)
        check_graph(session, step.graph, path)
        return session

    kernel = choose_kernel(device.kernel_library, step.graph.custom_ops, device.provider)
    return _prove(open_with, lambda session: replay_steps(session, golden, step, seconds=seconds), kernel)


OPENERS: Mapping[type[Task], Opener] = {Classification: open_classifier, LanguageModelling: open_language_model}

S = TypeVar("S", bound=OrtSession)


def _prove(
    open_with: Callable[[KernelChoice], S], difference: Callable[[S], float], kernel: KernelChoice
) -> tuple[S, float]:
    """Open a session and replay; a kernel that gives other numbers than were recorded yields to the plain body."""
    session = open_with(kernel)
    try:
        return session, difference(session)
    except BundleDisagrees as error:
        if session.kernel.path == "plain":
            raise
        reason = f"{session.kernel.library} is not used: with its kernels, {error}"
    return _prove(open_with, difference, plain(reason))


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
