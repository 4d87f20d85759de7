"""Time the delta rewrite in all its forms, in one run: `python -m benchmarks.bench_op [--out FILE]`.

Each form computes the same inputs on one thread and is first held against float64. Rounds are interleaved, so that
whatever else the machine does falls on all forms alike; the clock is the process's CPU time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from benchmarks import report
from ddl_model.delta_op import plain_delta_rewrite
from export import onnx_delta
from export.kernels import build
from tests.cases import BENCH_CHANNELS, BENCH_TOKENS, BENCH_WIDTH, EPS, Inputs, Shape, make_inputs
from tests.tolerances import assert_agrees

KERNEL, PLAIN, EAGER, COMPILED, COPY = FORMS = (
    "kernel",
    "plain body",
    "torch eager",
    "torch.compile",
    "copy",
)
ROUNDS = 15
ROUND_SECONDS = 0.004

Run = Callable[[], object]


def open_session(model: onnx.ModelProto, library: Path | None) -> ort.InferenceSession:
    """Open the model for one thread, with the kernel or without a library on the plain body."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runtime_form(session: ort.InferenceSession, inputs: Inputs) -> tuple[Run, Callable[[], NDArray[np.float32]]]:
    """Bind inputs and outputs once; returns the run, and what reads its new state."""
    binding = session.io_binding()
    tokens = inputs["state"].shape[0]
    channels = inputs["state"].shape[-1]
    shapes = {"new_state": inputs["state"].shape, "target": (tokens, channels), "readout": (tokens, channels)}
    outputs = {
        name: ort.OrtValue.ortvalue_from_shape_and_type(shapes.get(name, (tokens,)), np.float32)
        for name in onnx_delta.OUTPUTS
    }
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding), lambda: outputs["new_state"].numpy()


def torch_form(compiled: bool, inputs: Inputs) -> tuple[Run, Callable[[], NDArray[np.float32]]]:
    """Return the formulas in torch, eager or compiled for this very shape."""
    rewrite = torch.compile(plain_delta_rewrite, fullgraph=True, dynamic=False) if compiled else plain_delta_rewrite
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in inputs.items()}

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return rewrite(**tensors, direction_eps=EPS, target_scale=0.0)[0]

    return run, lambda: run().numpy()


def copy_form(shape: Shape) -> Run:
    """Return a copy that moves as many bytes as a rewrite must: state and three vectors in, new state out."""
    floats = shape.leading[0] * shape.width * (2 * shape.value_channels + 3)
    source = np.ones(floats // 2, np.float32)
    target = np.ones_like(source)
    return lambda: np.copyto(target, source)


def forms(shape: Shape, library: Path) -> dict[str, Run]:
    """Return every form of one shape, after it gave the right answer."""
    inputs = make_inputs(shape)
    model = onnx_delta.single_node_model(shape.value_channels, EPS, 0.0)
    candidates = {
        KERNEL: runtime_form(open_session(model, library), inputs),
        PLAIN: runtime_form(open_session(model, None), inputs),
        EAGER: torch_form(False, inputs),
        COMPILED: torch_form(True, inputs),
    }
    exact: dict[str, Any] = {name: torch.from_numpy(array).double() for name, array in inputs.items()}
    expected = plain_delta_rewrite(**exact, direction_eps=EPS, target_scale=0.0)[0].numpy()
    for run, new_state in candidates.values():
        run()
        assert_agrees("new_state", new_state(), expected, token_axes=1)
    return {name: run for name, (run, _) in candidates.items()} | {COPY: copy_form(shape)}


def repeat(run: Run, count: int) -> float:
    """Return the CPU seconds of one of `count` runs."""
    start = time.process_time()
    for _ in range(count):
        run()
    return (time.process_time() - start) / count


def measure(runs: dict[str, Run]) -> dict[str, list[float]]:
    """Return the seconds of each form in each round."""
    counts = {name: max(1, int(ROUND_SECONDS / max(repeat(run, 3), 1e-7))) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            samples[name].append(repeat(run, counts[name]))
    return samples


def row(shape: Shape, samples: dict[str, list[float]]) -> list[str]:
    """Return one line of the table: medians in microseconds with their spread, then ratios of the medians."""
    medians = {name: statistics.median(values) for name, values in samples.items()}

    def cell(name: str) -> str:
        low, _, high = statistics.quantiles(samples[name], n=4)
        return f"{report.number(medians[name] * 1e6)} ± {(high - low) / 2 / medians[name]:.0%}"

    return [
        str(shape.value_channels),
        str(shape.leading[0]),
        *(cell(name) for name in FORMS),
        *(f"{medians[name] / medians[KERNEL]:.1f}" for name in (PLAIN, EAGER, COMPILED)),
        f"{medians[KERNEL] / medians[COPY]:.2f}",
    ]


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Time the delta rewrite in all its forms on one thread.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the table in a Markdown file")
    options = parser.parse_args()
    if not build.LIBRARY.is_file():
        print(f"{build.LIBRARY} is missing: python -m export.kernels.build", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    rows = []
    for channels in BENCH_CHANNELS:
        for tokens in BENCH_TOKENS:
            shape = Shape((tokens,), BENCH_WIDTH, channels)
            print(f"timing {shape} ...", file=sys.stderr)
            torch.compiler.reset()
            rows.append(row(shape, measure(forms(shape, build.LIBRARY))))
    isa = build.library_info(build.LIBRARY)["isa"]
    head = ["dv", "tokens", *FORMS, *(f"{name} / kernel" for name in (PLAIN, EAGER, COMPILED)), "kernel / copy"]
    text = "\n".join(
        [
            f"# The delta rewrite, d = {BENCH_WIDTH}, float32, one thread",
            "",
            f"- {report.today()}, {report.processor()}",
            f"- {report.versions('onnxruntime', 'torch', 'numpy')}, kernel for {isa}",
            f"- CPU microseconds of one run: median of {ROUNDS} interleaved rounds ± half the interquartile range",
            "- plain body: ONNX Runtime without the op library; copy: as many bytes as a rewrite must move",
            "",
            report.table(head, rows),
        ]
    )
    report.publish(text, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
