"""The parity report: what every way of running a bundle's graphs makes of the same samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.kind import MODEL, Run, Script
from service.bundle import Graph
from service.runtime.golden import difference
from service.runtime.kernel_library import KernelChoice, choose_kernel, plain
from service.runtime.session import CPU, Arrays, OrtSession, Session

Answers = list[dict[str, NDArray[Any]]]
"""The outputs of each run of a script."""

PLAIN = plain("asked for")


@dataclass(frozen=True)
class PathDifference:
    """One way of running the graphs, and its largest difference from what was expected by kind of output.

    Outputs of other graphs than `MODEL` bear its name in front.
    """

    name: str
    detail: str
    differences: dict[str, float]


@dataclass(frozen=True)
class ParityReport:
    """How far each way of running a bundle is from `reference` on the golden samples."""

    samples: int
    tolerance: float
    paths: tuple[PathDifference, ...]
    skipped: str
    reference: str = "torch (float32)"
    remarks: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every path stays within the tolerance."""
        return all(value <= self.tolerance for path in self.paths for value in path.differences.values())

    def to_markdown(self) -> str:
        """Return the report as a document."""
        kinds = list(self.paths[0].differences)
        lines = [
            "# Parity report",
            "",
            f"Largest difference from {self.reference} over {self.samples} samples; allowed {self.tolerance:g}. A "
            "difference is absolute for values up to 1 and relative above.",
            "",
            f"| output | {' | '.join(path.name for path in self.paths)} |",
            f"| --- |{' --- |' * len(self.paths)}",
        ]
        for kind in kinds:
            lines.append(f"| {kind} | {' | '.join(f'{path.differences[kind]:.2e}' for path in self.paths)} |")
        lines += ["", *(f"- {path.name}: {path.detail}" for path in self.paths)]
        if self.skipped:
            lines.append(f"- the kernel was not tried: {self.skipped}")
        lines += ["", *([self.remarks, ""] if self.remarks else [])]
        lines += ["All agree." if self.agrees else "**They disagree.**", ""]
        return "\n".join(lines)


def compare(
    folder: Path, graphs: Mapping[str, Graph], scripts: Mapping[str, Script], tolerance: float, library: str = "auto"
) -> ParityReport:
    """Run every graph with the plain bodies, and with the kernel library where it is built.

    `library` is as in the service's settings: `auto`, `off` or a path.
    """
    choices = [("plain body", "standard ONNX operators", PLAIN)]
    skipped = ""
    kernel = choose_kernel(library, [op for graph in graphs.values() for op in graph.custom_ops], CPU)
    if kernel.path == "kernel":
        choices.append(("kernel", kernel.reason, kernel))
    else:
        skipped = kernel.reason
    paths = []
    for name, detail, choice in choices:
        answers = {graph: answer(folder / graphs[graph].file, script, choice) for graph, script in scripts.items()}
        paths.append(PathDifference(name, detail, differences(answers, scripts)))
    samples = sum(len(next(iter(run.inputs.values()))) for run in scripts[MODEL].runs)
    return ParityReport(samples, tolerance, tuple(paths), skipped)


def answer(graph: Path, script: Script, kernel: KernelChoice = PLAIN) -> Answers:
    """Open a graph and run a script.

    Raises:
        RuntimeError: it does not open with the kernel that was chosen.
    """
    session = OrtSession(graph, providers=[CPU], threads=1, kernel=kernel)
    if session.kernel.path != kernel.path:
        raise RuntimeError(session.kernel.reason)
    return [outputs for _, outputs in walk(session, script)]


def walk(session: Session, script: Script) -> Iterator[tuple[Arrays, dict[str, NDArray[Any]]]]:
    """Run a script; for each run, yield all that went in, and what came out of the outputs that are looked at."""
    carried = {name: tensor.numpy() for name, tensor in script.start.items()}
    for run in script.runs:
        feeds = {name: tensor.numpy() for name, tensor in run.inputs.items()} | carried
        outputs = session.run(feeds, [*run.outputs, *script.carried])
        carried = {past: outputs.pop(present) for present, past in script.carried.items()}
        yield feeds, outputs


def differences(answers: Mapping[str, Answers], scripts: Mapping[str, Script]) -> dict[str, float]:
    """Return the largest difference of answers from what scripts expect, by kind of output."""
    found: dict[str, float] = {}
    for graph, script in scripts.items():
        for run, outputs in zip(script.runs, answers[graph], strict=True):
            for name, tensor in run.outputs.items():
                kind = name.rpartition("/")[2] if graph == MODEL else f"{graph}: {name.rpartition('/')[2]}"
                found[kind] = max(found.get(kind, 0.0), difference(outputs[name], tensor.numpy()))
    return found


def expecting(script: Script, answers: Sequence[Mapping[str, NDArray[Any]]]) -> Script:
    """Return a script that expects these answers."""
    runs = [
        Run(run.inputs, {name: torch.from_numpy(np.array(array)) for name, array in outputs.items()})
        for run, outputs in zip(script.runs, answers, strict=True)
    ]
    return replace(script, runs=tuple(runs))
