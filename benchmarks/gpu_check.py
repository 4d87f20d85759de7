"""Check and time everything that needs an NVIDIA card: `python -m benchmarks.gpu_check [--out FILE]`.

Exit status: 0 if every check that could run passed, 1 if one failed, 3 without a card. Needs nvcc, a C++ compiler,
cmake and ninja; torch to hold every op against float64 and to time it; onnxruntime-gpu for the bundle
(`pip install '.[gpu]'`). What is missing is left out and said so.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import report
from export.kernels import build

FOLDER = build.ROOT / "build" / "kernels-gpu"
LIBRARY = FOLDER / "installed" / build.LIBRARY.name
BUNDLES = build.ROOT / "models"
NO_CARD = 3

TIMED_BATCHES = (1, 64)
TIMED_RUNS = 30


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    check: str
    result: Literal["pass", "FAIL", "not run"]
    detail: str


def card() -> str | None:
    """Return name, driver and memory of the first card, or None."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    query = [smi, "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = result.stdout.strip().splitlines()
    if result.returncode != 0 or not lines:
        return None
    name, driver, memory, capability = (field.strip() for field in lines[0].split(","))
    return f"{name}, {memory}, compute capability {capability}, driver {driver}"


def nvcc_version() -> str:
    """Return the release of nvcc, as it prints it."""
    nvcc = build.find_nvcc()
    if nvcc is None:
        return "no nvcc"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    return f"nvcc {text.rpartition('release ')[2].partition(',')[0]}"


def build_rows() -> list[Row]:
    """Compile the kernels for this card."""
    try:
        done = build.build(cuda="on", arch="native", folder=FOLDER, library=LIBRARY)
    except (build.ToolMissing, build.BuildFailed) as error:
        print(error, file=sys.stderr)
        return [Row("build for this card", "FAIL", last_line(error))]
    cards = ", ".join(f"sm_{number}" for number in done.info["cuda_architectures"])
    return [Row("build for this card", "pass", f"{cards}, {done.status} in {done.seconds:.0f} s")]


def kernel_rows() -> list[Row]:
    """Hold the kernels against float64 on the card, by the check that comes with them."""
    command = [str(FOLDER / "check_delta"), "--require-cuda"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    print(result.stdout + result.stderr, file=sys.stderr)
    parity = [line for line in result.stdout.splitlines() if re.search(r"\scuda\s+b?float", line)]
    good = result.returncode == 0 and bool(parity) and all(line.endswith(" ok") for line in parity)
    detail = f"{len(parity)} groups" if good else last_line(result.stdout + result.stderr)
    return [Row("kernels against float64, in C++", "pass" if good else "FAIL", detail)]


def op_rows() -> tuple[list[Row], str]:
    """Hold every op and type against float64 in torch, then time them; returns the table of times, too."""
    name = "ops against float64, in torch"
    try:
        from benchmarks import cuda_checks
        from benchmarks.cuda_op import CudaOps, KernelError
    except ImportError as error:
        return [Row(name, "not run", str(error))], ""
    command = [build.find_tool("cmake"), "--build", str(FOLDER), "--target", "ddl_cuda"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return [Row(name, "FAIL", last_line(built.stdout + built.stderr))], ""
    try:
        cuda_checks.use_exact_float32()
        ops = CudaOps(FOLDER / "libddl_cuda.so")
        rows = [
            Row(f"{found.op} against float64", "pass", f"{found.calls} calls, {found.worst:.0%} of the tolerance")
            for found in cuda_checks.check(ops)
        ]
        lines, failures = cuda_checks.time_all(ops)
    except (cuda_checks.Disagrees, KernelError, RuntimeError) as error:
        return [Row(name, "FAIL", last_line(error))], ""
    rows += [Row("op timed", "not run", failure) for failure in failures]
    return rows, report.table(cuda_checks.HEAD, lines)


def bundle_rows() -> list[Row]:
    """Run the first shipped classifier on the card: golden samples, then time beside the CPU."""
    name = "bundle on the card"
    folders = sorted(path.parent for path in BUNDLES.glob("*/*/manifest.json"))
    if not folders:
        return [Row(name, "not run", f"no bundle under {BUNDLES}")]
    try:
        import numpy as np
        import onnxruntime as ort

        from service.bundle import Classification, read_bundle
        from service.runtime import golden, session
        from service.runtime.kernel_library import choose_kernel
    except ImportError as error:
        return [Row(name, "not run", f"{error}: pip install '.[gpu]'")]
    if session.CUDA not in ort.get_available_providers():
        return [Row(name, "not run", f"onnxruntime {ort.__version__} has no {session.CUDA}: install onnxruntime-gpu")]
    ort.preload_dlls()  # CUDA's libraries may come as Python packages

    def open_on(provider: str) -> session.OrtSession:
        providers = [provider] if provider == session.CPU else [provider, session.CPU]
        kernel = choose_kernel(str(LIBRARY), graph.custom_ops, provider)
        return session.OrtSession(bundle.graph_path, providers=providers, threads=0, kernel=kernel)

    try:
        bundles = [(folder, read_bundle(folder)) for folder in folders]
        classifiers = [entry for entry in bundles if isinstance(entry[1].manifest.task, Classification)]
        if not classifiers:
            return [Row(name, "not run", f"no classifier under {BUNDLES}")]
        folder, bundle = classifiers[0]
        name = f"{folder.parent.name} {folder.name} on the card"
        graph = bundle.manifest.graph
        on_card, on_cpu = open_on(session.CUDA), open_on(session.CPU)
        worst = golden.replay(on_card, bundle.golden_path, bundle.manifest.golden)
    except Exception as error:  # whatever it is, it belongs into the table
        return [Row(name, "FAIL", last_line(error))]
    allowed = bundle.manifest.golden.tolerance
    on_kernel = on_card.kernel.path == "kernel"
    rows = [
        Row(f"{name}: golden samples", "pass", f"largest difference {worst:.2g}, allowed {allowed:.2g}"),
        Row(f"{name}: kernels chosen", "pass" if on_kernel else "FAIL", on_card.kernel.reason),
    ]
    task = bundle.manifest.task
    outputs = [task.probabilities] if isinstance(task, Classification) else []
    for batch in TIMED_BATCHES:
        generator = np.random.default_rng(batch)
        feeds = {
            spec.name: generator.standard_normal((batch, *spec.shape[1:])).astype(np.float32) for spec in graph.inputs
        }
        card_seconds, cpu_seconds = (median_seconds(one, feeds, outputs) for one in (on_card, on_cpu))
        ratio = f"{cpu_seconds / card_seconds:.1f} times as fast"
        detail = f"card {card_seconds * 1e3:.2f} ms, CPU {cpu_seconds * 1e3:.2f} ms: {ratio}"
        rows.append(Row(f"{name}: batch {batch} timed", "pass", detail))
    return rows


def median_seconds(session: Any, feeds: dict[str, Any], outputs: Sequence[str]) -> float:
    """Return the median wall time of a run, copies to and from the card included."""
    samples = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        session.run(feeds, outputs)
        samples.append(time.perf_counter() - start)
    return sorted(samples[TIMED_RUNS // 5 :])[(TIMED_RUNS - TIMED_RUNS // 5) // 2]


def last_line(error: object) -> str:
    """Return the last line of a message: where compilers and runtimes say what it was."""
    return (str(error).strip().splitlines() or ["no message"])[-1]


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build, check and time the CUDA kernels on this machine's card.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table in a Markdown file")
    options = parser.parse_args()
    found = card()
    if found is None:
        print("No NVIDIA card: nvidia-smi is missing or finds none. Nothing was checked.", file=sys.stderr)
        return NO_CARD
    rows, times = build_rows(), ""
    if rows[0].result == "pass":
        rows += kernel_rows()
    if rows[-1].result == "pass":
        timed_rows, times = op_rows()
        rows += timed_rows + bundle_rows()
    else:
        rows.append(Row("everything else", "not run", "there are no kernels, or they are wrong"))
    head = ("check", "result", "detail")
    text = "\n".join(
        [
            "# Check on an NVIDIA card",
            "",
            f"- {report.today()}, {found}",
            f"- {report.processor()}",
            f"- {nvcc_version()}, {report.versions('onnxruntime-gpu', 'torch', 'numpy')}",
            "",
            report.table(head, [(row.check, row.result, row.detail) for row in rows]),
            "",
            "Times of a launch out of many in a recorded graph, without the trace outputs. GB/s: inputs read once and",
            "outputs written once. Of the copy: the time of a copy of as many bytes, in the same run. torch eager and",
            "torch.compile: their time as a multiple of the kernel's.",
            "",
            times or "Nothing was timed.",
        ]
    )
    report.publish(text, options.out)
    return 1 if any(row.result == "FAIL" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
