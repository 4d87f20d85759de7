"""Where a delta network's time goes, and its additive twin's: ONNX Runtime's profile of the same steps."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.model_forms import RuntimeStep, Work, free, runtime_session

RUNS = 9
SHOWN = 12


def profile_rows(files: Mapping[str, Path], library: Path, works: Mapping[str, Work]) -> list[list[str]]:
    """Return microseconds by type of operator for the networks `delta` and `additive`, largest difference first."""
    lines = []
    for name, work in works.items():
        seen = {network: operator_times(file, library, work) for network, file in files.items()}
        delta, additive = seen["delta"], seen["additive"]
        extra = {kind: delta.get(kind, 0.0) - additive.get(kind, 0.0) for kind in delta | additive}
        for kind in sorted(extra, key=lambda kind: -abs(extra[kind]))[:SHOWN]:
            values = (delta.get(kind, 0.0), additive.get(kind, 0.0), extra[kind])
            lines.append([name, kind, *(f"{value:,.0f}" for value in values)])
        totals = sum(delta.values()), sum(additive.values())
        lines.append([name, "all", *(f"{value:,.0f}" for value in (*totals, totals[0] - totals[1]))])
    return lines


def operator_times(file: Path, library: Path, work: Work) -> dict[str, float]:
    """Return the microseconds that each type of operator takes in a step: of each node, the fastest run."""
    with tempfile.TemporaryDirectory() as folder:
        session = runtime_session(file, library, Path(folder) / "profile")
        step = RuntimeStep(session, work)
        for _ in range(RUNS):
            step()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    found: dict[str, float] = {}
    for (kind, _), values in durations.items():
        found[kind] = found.get(kind, 0.0) + min(values)
    del session, step
    free()
    return found
