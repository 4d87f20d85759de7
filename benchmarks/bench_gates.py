"""What a prediction pays for being able to show its gates: `python -m benchmarks.bench_gates BUNDLE ... [--out FILE]`.

Each bundle's graph as it is, asked for its answer alone, beside the same graph without gate outputs and without inputs
that change gates. One thread, CPU time, in turn. The aim is 2 % at most.
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file

from benchmarks import report, timing
from benchmarks.bench_bundles import open_session
from export.graph import LOGITS
from service.bundle import Bundle, read_bundle

AIM = 0.02
ROUNDS = 41


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="REPOSITORY/NAME/VERSION")
    parser.add_argument("--library", default="auto", help="op library: auto, off, or a path (default: auto)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds (default: {ROUNDS})")
    parser.add_argument("--out", type=Path, help="keep the table in a file, too")
    options = parser.parse_args()
    rows = [row(read_bundle(folder), options.library, options.rounds) for folder in options.bundles]
    head = ["bundle", "with gates, us", "without, us", "cost, median of rounds", f"within {AIM:.0%}"]
    about = [f"- {report.today()}, {report.processor()}", f"- {report.versions('onnxruntime')}, one thread, CPU time"]
    report.publish("\n".join([*about, "", report.table(head, rows)]), options.out)


def row(bundle: Bundle, library: str, rounds: int) -> list[str]:
    """Return what is told of one bundle, after both forms gave the same answer."""
    samples = load_file(bundle.golden_path)
    feeds = {name.removeprefix("input/"): array for name, array in samples.items() if name.startswith("input/")}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            "with": open_session(bundle, bundle.graph_path, library),
            "without": open_session(bundle, without_gates(bundle, Path(folder)), library),
        }
        runs = {name: partial(session.run, feeds, [LOGITS]) for name, session in sessions.items()}
        np.testing.assert_allclose(runs["with"]()[LOGITS], runs["without"]()[LOGITS], atol=1e-5)
        found = timing.measure(runs, rounds)
    cost = statistics.median(a / b - 1 for a, b in zip(found["with"], found["without"], strict=True))
    cells = [timing.cell(found[name]) for name in ("with", "without")]
    return [str(bundle.folder), *cells, f"{cost:+.1%}", "yes" if cost <= AIM else "no"]


def without_gates(bundle: Bundle, folder: Path) -> Path:
    """Write the bundle's graph with its answer as its only output, and with no input but what is predicted for."""
    model = onnx.load(bundle.graph_path)
    wanted = {spec.name for spec in bundle.manifest.graph.inputs}
    gates = bundle.manifest.gates
    changes = set(gates.overrides) if gates is not None else set()
    for values, kept in ((model.graph.input, wanted - changes), (model.graph.output, {LOGITS})):
        chosen = [value for value in values if value.name in kept]
        del values[:]
        values.extend(chosen)
    file = folder / "model.onnx"
    onnx.save(model, file)
    return file


if __name__ == "__main__":
    main()
