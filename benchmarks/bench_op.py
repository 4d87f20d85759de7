"""Time the custom ops in all their forms, in one run: `python -m benchmarks.bench_op [--out FILE]`.

Each form computes the same inputs on one thread and is first held against float64. Rounds are interleaved; the clock is
the process's CPU time.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.empty_op import empty_library
from benchmarks.op_forms import checked, copy_form, model_of, runtime_form, session, standard_reading, torch_form
from benchmarks.timing import ROUNDS, cell, measure, medians
from export.kernels import build
from export.ops.contract import COMPRESS_NORM, DELTA_REWRITE, DELTA_REWRITE_COMPRESS_NORM
from tests.cases import BENCH_CHANNELS, BENCH_TOKENS, BENCH_WIDTH, Shape
from tests.export.one_node import op_inputs

KERNEL, IN_PLACE, PLAIN, EAGER, COMPILED, COPY = (
    "kernel",
    "in place",
    "plain body",
    "torch eager",
    "torch.compile",
    "copy",
)
STANDARD, EMPTY = "standard ops", "empty op"


def rewrite_rows(library: Path, empty: Path) -> list[list[str]]:
    """Time `DeltaRewrite`; the copy is that of the state X, the empty op has the same arguments and does nothing."""
    op, rows = DELTA_REWRITE, []
    opened, plain, idle = (session(model_of(op), used) for used in (library, None, empty))
    for shape in shapes():
        inputs = op_inputs(op, shape)
        forms = {
            KERNEL: runtime_form(op, opened, inputs),
            IN_PLACE: runtime_form(op, opened, inputs, in_place=True),
            PLAIN: runtime_form(op, plain, inputs),
            EAGER: torch_form(op, inputs, compiled=False),
            COMPILED: torch_form(op, inputs, compiled=True),
        }
        nothing, _ = runtime_form(op, idle, inputs)
        samples = measure(checked(op, shape, forms, inputs) | {COPY: copy_form(inputs["state"].size), EMPTY: nothing})
        times = medians(samples)
        rows.append(
            [
                *start_of(shape),
                *(cell(samples[name]) for name in samples),
                report.number((times[KERNEL] - times[EMPTY]) * 1e6),
                *(f"{times[name] / times[KERNEL]:.1f}" for name in (PLAIN, EAGER, COMPILED)),
                *(f"{times[name] / times[COPY]:.2f}" for name in (KERNEL, IN_PLACE)),
            ]
        )
    return rows


def reading_rows(library: Path) -> list[list[str]]:
    """Time `CompressNorm` beside the standard operators, and the fused op beside two kernels one after another."""
    rows = []
    alone = session(model_of(COMPRESS_NORM), library)
    standard = session(standard_reading(), None)
    rewrite = session(model_of(DELTA_REWRITE), library)
    fused = session(model_of(DELTA_REWRITE_COMPRESS_NORM), library)
    for shape in shapes():
        reading = op_inputs(COMPRESS_NORM, shape)
        both = op_inputs(DELTA_REWRITE_COMPRESS_NORM, shape)
        runs = checked(
            COMPRESS_NORM,
            shape,
            {
                KERNEL: runtime_form(COMPRESS_NORM, alone, reading),
                STANDARD: runtime_form(COMPRESS_NORM, standard, reading),
            },
            reading,
        )
        fused_form = {"fused": runtime_form(DELTA_REWRITE_COMPRESS_NORM, fused, both, in_place=True)}
        runs |= checked(DELTA_REWRITE_COMPRESS_NORM, shape, fused_form, both)
        first = op_inputs(DELTA_REWRITE, shape)
        runs |= checked(
            DELTA_REWRITE, shape, {"rewrite": runtime_form(DELTA_REWRITE, rewrite, first, in_place=True)}, first
        )
        samples = measure(runs | {COPY: copy_form(both["state"].size)})
        times = medians(samples)
        rows.append(
            [
                *start_of(shape),
                *(cell(samples[name]) for name in (KERNEL, STANDARD, "rewrite", "fused", COPY)),
                f"{times[STANDARD] / times[KERNEL]:.1f}",
                f"{(times['rewrite'] + times[KERNEL]) / times['fused']:.2f}",
                f"{times['fused'] / times[COPY]:.2f}",
            ]
        )
    return rows


def shapes() -> list[Shape]:
    """Return the shapes to time, saying which one is next."""
    return [Shape((tokens,), BENCH_WIDTH, channels) for channels in BENCH_CHANNELS for tokens in BENCH_TOKENS]


def start_of(shape: Shape) -> list[str]:
    """Return the columns that name a shape."""
    print(f"timed {shape}", file=sys.stderr)
    torch.compiler.reset()
    return [str(shape.value_channels), str(shape.leading[0])]


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Time the custom ops in all their forms on one thread.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the tables in a Markdown file")
    parser.add_argument("--library", type=Path, default=build.LIBRARY, metavar="FILE", help="the op library to time")
    options = parser.parse_args()
    if not options.library.is_file():
        print(f"{options.library} is missing: python -m export.kernels.build", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    compared = [f"{name} / kernel" for name in (PLAIN, EAGER, COMPILED)]
    measured = [KERNEL, IN_PLACE, PLAIN, EAGER, COMPILED, COPY, EMPTY, f"{KERNEL} - {EMPTY}"]
    with tempfile.TemporaryDirectory() as folder:
        rewrites = report.table(
            ["dv", "tokens", *measured, *compared, "kernel / copy", "in place / copy"],
            rewrite_rows(options.library, empty_library(Path(folder))),
        )
    readings = report.table(
        [
            *("dv", "tokens", "CompressNorm", STANDARD, "DeltaRewrite", "fused", COPY),
            *(f"{STANDARD} / CompressNorm", "two kernels / fused", "fused / copy"),
        ],
        reading_rows(options.library),
    )
    isa = build.library_info(options.library)["isa"]
    text = "\n".join(
        [
            f"# The custom ops, d = {BENCH_WIDTH}, float32, one thread",
            "",
            f"- {report.today()}, {report.processor()}",
            f"- {report.versions('onnxruntime', 'torch', 'numpy')}, kernels for {isa}",
            f"- CPU microseconds of one run: median of {ROUNDS} interleaved rounds ± half the interquartile range",
            "- in place: the new state takes the memory of the state, as inside a graph",
            "- plain body: ONNX Runtime without the op library; copy: memcpy of the state X",
            "- empty op: a custom op of the same arguments that does nothing, so what ONNX Runtime takes for a call",
            "",
            "## DeltaRewrite",
            "",
            rewrites,
            "",
            "## CompressNorm, and DeltaRewriteCompressNorm (fused), which rewrites in place",
            "",
            readings,
        ]
    )
    report.publish(text, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
