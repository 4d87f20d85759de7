"""The parity report: torch, the plain body and the kernel on the same samples."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddl_model.image_classifier import ImageClassifier
from export.graph import PIXELS, WithGates, output_names
from service.bundle import CustomOp
from service.runtime.golden import difference
from service.runtime.kernel_library import KernelChoice, choose_kernel, plain
from service.runtime.session import CPU, OrtSession

Array = NDArray[np.float32]


@dataclass(frozen=True)
class PathDifference:
    """One way of running the graph, and its largest difference from torch by kind of output."""

    name: str
    detail: str
    differences: dict[str, float]


@dataclass(frozen=True)
class ParityReport:
    """How far each way of running a bundle is from torch in float32 on the golden samples."""

    samples: int
    tolerance: float
    paths: tuple[PathDifference, ...]
    skipped: str

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
            f"Largest difference from torch (float32) over {self.samples} samples; allowed {self.tolerance:g}. A "
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
        lines += ["", "All agree." if self.agrees else "**They disagree.**", ""]
        return "\n".join(lines)


def torch_outputs(model: ImageClassifier, pixels: Tensor) -> dict[str, Tensor]:
    """Return every output of the graph as torch computes it."""
    with torch.no_grad():
        return dict(zip(output_names(model.sites), WithGates(model)(pixels), strict=True))


def compare(
    graph: Path, pixels: Tensor, expected: dict[str, Tensor], ops: tuple[CustomOp, ...], tolerance: float
) -> ParityReport:
    """Run the graph with the plain bodies, and with the kernel library where it is built."""
    choices = [("plain body", plain("asked for"))]
    skipped = ""
    kernel = choose_kernel("auto", ops, CPU)
    if kernel.path == "kernel":
        choices.append(("kernel", kernel))
    else:
        skipped = kernel.reason
    paths = [_measure(name, choice, graph, pixels, expected) for name, choice in choices]
    return ParityReport(len(pixels), tolerance, tuple(paths), skipped)


def _measure(
    name: str, choice: KernelChoice, graph: Path, pixels: Tensor, expected: dict[str, Tensor]
) -> PathDifference:
    session = OrtSession(graph, providers=[CPU], threads=1, kernel=choice)
    answered = session.run({PIXELS: pixels.numpy()}, list(expected))
    differences: dict[str, float] = {}
    for output, tensor in expected.items():
        kind = output.rpartition("/")[2]
        differences[kind] = max(differences.get(kind, 0.0), difference(answered[output], tensor.numpy()))
    detail = session.kernel.reason if session.kernel.path == "kernel" else "standard ONNX operators"
    return PathDifference(name, detail, differences)
