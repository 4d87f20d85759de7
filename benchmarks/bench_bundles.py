"""Time bundles of one network beside each other: `python -m benchmarks.bench_bundles FLOAT32 INT8 ... [--out FILE]`.

Such as the same checkpoint in several precisions. One thread, CPU time, in turn; ratios are against the first bundle.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks import report, timing
from export.golden import read_steps
from export.graph import LOGITS
from export.verify import walk
from service.bundle import Bundle, LanguageModelling, StepGraph, read_bundle
from service.runtime.kernel_library import choose_kernel
from service.runtime.session import CPU, OrtSession

TOKENS = 64
"""Length of the text that is read in one go."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="REPOSITORY/NAME/VERSION")
    parser.add_argument("--library", default="auto", help="op library: auto, off, or a path (default: auto)")
    parser.add_argument("--out", type=Path, help="keep the table in a file, too")
    options = parser.parse_args()
    bundles = [read_bundle(folder) for folder in options.bundles]
    runs = [works(bundle, options.library) for bundle in bundles]
    names = list(runs[0])
    samples = {
        work: timing.medians(timing.measure({str(i): run[work] for i, run in enumerate(runs)})) for work in names
    }
    rows = []
    for i, bundle in enumerate(bundles):
        size = sum(path.stat().st_size for path in (bundle.folder / "graphs").iterdir())
        precision = bundle.manifest.precision.kind if bundle.manifest.precision else "float32"
        times = [
            f"{report.number(samples[w][str(i)] * 1e6)} ({samples[w]['0'] / samples[w][str(i)]:.2f})" for w in names
        ]
        rows.append([str(bundle.folder), precision, f"{size:,}", *times])
    head = ["bundle", "precision", "bytes", *(f"{work}, us (speed)" for work in names)]
    about = [f"- {report.today()}, {report.processor()}", f"- {report.versions('onnxruntime')}, one thread, CPU time"]
    report.publish("\n".join([*about, "", report.table(head, rows)]), options.out)


def works(bundle: Bundle, library: str) -> dict[str, Callable[[], object]]:
    """Return what is timed of a bundle: its golden samples, or reading a text and steps of one row and of several."""
    samples = load_file(bundle.golden_path)
    inputs = {name.removeprefix("input/"): array for name, array in samples.items() if name.startswith("input/")}
    whole = open_session(bundle, bundle.graph_path, library)
    task = bundle.manifest.task
    if not isinstance(task, LanguageModelling):
        return {f"{bundle.manifest.golden.samples} images": lambda: whole.run(inputs, [LOGITS])}
    row = inputs[task.tokens][:1]
    text = {task.tokens: np.tile(row, (1, -(-TOKENS // row.shape[1])))[:, :TOKENS]}
    found: dict[str, Callable[[], object]] = {f"{TOKENS} tokens": lambda: whole.run(text, [LOGITS])}
    return found if task.step is None else found | steps(bundle, task.step, library)


def steps(bundle: Bundle, step: StepGraph, library: str) -> dict[str, Callable[[], object]]:
    """Return the last recorded step, of its first row and of all rows."""
    session = open_session(bundle, bundle.folder / step.graph.file, library)
    *_, (every, _) = walk(session, read_steps(bundle.folder, step))
    outputs = [step.logits, *(tensor.present for tensor in step.cache)]
    one: dict[str, NDArray[Any]] = {name: array[:1] for name, array in every.items()}
    return {
        "step of 1 row": lambda: session.run(one, outputs),
        f"step of {len(every[step.tokens])} rows": lambda: session.run(every, outputs),
    }


def open_session(bundle: Bundle, file: Path, library: str) -> OrtSession:
    """Open a graph on the op library, where it can be used."""
    ops = [op for graph in bundle.manifest.graphs.values() for op in graph.custom_ops]
    return OrtSession(file, providers=[CPU], threads=1, kernel=choose_kernel(library, ops, CPU))


if __name__ == "__main__":
    main()
