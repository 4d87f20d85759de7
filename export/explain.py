"""Which path each node of a bundle takes on this machine, and what it costs: read from a profile of a real run."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from safetensors.numpy import load_file

from export.golden import read_steps
from export.kind import MODEL, STEP
from export.ops.contract import DOMAIN, OPS
from export.verify import walk
from service.bundle import LanguageModelling, read_bundle
from service.runtime.kernel_library import KernelChoice, choose_kernel
from service.runtime.session import CPU, OrtSession

RUNS = 5
"""How often the golden samples run; the first is not counted."""

_INLINED = "_inlfunc_"
"""How ONNX Runtime names the nodes that a function's body becomes: this, the function's name, and theirs."""


@dataclass(frozen=True)
class NodePath:
    """One custom op of the graph: its nodes by name, how they run, and their microseconds in one run."""

    op: str
    nodes: tuple[str, ...]
    path: str
    runs_as: str
    microseconds: float


@dataclass(frozen=True)
class Explanation:
    """What a session makes of one graph of a bundle; `measured` says what one run is."""

    file: Path
    kernel: KernelChoice
    measured: str
    paths: tuple[NodePath, ...]
    total_microseconds: float
    slowest: tuple[tuple[str, int, float], ...]

    def to_markdown(self) -> str:
        """Return the explanation as a document."""
        lines = [
            f"# How {self.file} runs here",
            "",
            f"Custom ops take the path `{self.kernel.path}`: {self.kernel.reason}.",
            f"Times are of {self.measured} on one thread, from ONNX Runtime's profile; all nodes together take "
            f"{self.total_microseconds:.0f} us.",
            "",
            "| op | nodes | path | runs as | us | share |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for path in self.paths:
            names = ", ".join(path.nodes)
            share = path.microseconds / self.total_microseconds if self.total_microseconds else 0.0
            lines.append(
                f"| {path.op} | {names} | {path.path} | {path.runs_as} | {path.microseconds:.0f} | {share:.1%} |"
            )
        lines += [
            "",
            "The operators that take most of the time:",
            "",
            "| operator | nodes | us |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {name} | {count} | {us:.0f} |" for name, count, us in self.slowest]
        return "\n".join([*lines, ""])


def explain(bundle_folder: Path, library: str = "auto", show: int = 8, graph: str = MODEL) -> Explanation:
    """Run a graph of a bundle under the profiler: on its golden samples, or on the last of its recorded steps.

    Args:
        bundle_folder: `REPOSITORY/NAME/VERSION`.
        library: as the service's setting: `auto`, `off` or a path.
        show: how many of the slowest operators to list.
        graph: one of the manifest's `graphs`.

    Raises:
        BundleCorrupt, BundleInvalid: the bundle cannot be read.
    """
    bundle = read_bundle(bundle_folder)
    manifest = bundle.manifest
    described = manifest.graphs[graph]
    file = bundle.folder / described.file
    kernel = choose_kernel(library, described.custom_ops, CPU)
    if isinstance(manifest.task, LanguageModelling) and manifest.task.step is not None and graph == STEP:
        session = OrtSession(file, providers=[CPU], threads=1, kernel=kernel)
        *_, (inputs, _) = walk(session, read_steps(bundle.folder, manifest.task.step))
        measured = f"a step of {len(inputs[manifest.task.step.tokens])} rows, one token each,"
    else:
        tensors = load_file(bundle.golden_path)
        inputs = {name.removeprefix("input/"): array for name, array in tensors.items() if name.startswith("input/")}
        measured = f"one run of the {manifest.golden.samples} golden samples"
    nodes = onnx.load(file, load_external_data=False).graph
    events = _profile(file, kernel, inputs)
    return Explanation(
        file,
        kernel,
        measured,
        tuple(_node_path(name, nodes, events) for name in OPS if any(node.op_type == name for node in nodes.node)),
        sum(event["dur"] for event in events) / RUNS,
        _slowest(events, show),
    )


def _profile(graph: Path, kernel: KernelChoice, inputs: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if kernel.library is not None:
        options.register_custom_ops_library(str(kernel.library))
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(graph), options, providers=[CPU])
        for _ in range(RUNS + 1):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    # Every run has the same nodes: the first run's are the first share.
    return nodes[len(nodes) // (RUNS + 1) :]


def _node_path(name: str, graph: onnx.GraphProto, events: Sequence[dict[str, Any]]) -> NodePath:
    names = tuple(node.name for node in graph.node if (node.domain, node.op_type) == (DOMAIN, name))
    own = [event for event in events if event["args"]["op_name"] == name]
    if own:
        runs_as = f"{len(own) // RUNS} kernel calls on {own[0]['args']['provider']}"
        return NodePath(name, names, "kernel", runs_as, sum(event["dur"] for event in own) / RUNS)
    inlined = [event for event in events if event["name"].startswith(f"{_INLINED}{name}_")]
    runs_as = f"{len(inlined) // RUNS} standard operators"
    return NodePath(name, names, "plain", runs_as, sum(event["dur"] for event in inlined) / RUNS)


def _slowest(events: Sequence[dict[str, Any]], show: int) -> tuple[tuple[str, int, float], ...]:
    durations: dict[str, list[float]] = {}
    for event in events:
        durations.setdefault(event["args"]["op_name"], []).append(event["dur"])
    ranked = sorted(durations.items(), key=lambda item: -sum(item[1]))[:show]
    return tuple((name, len(values) // RUNS, float(np.sum(values)) / RUNS) for name, values in ranked)
