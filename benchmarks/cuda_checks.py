"""What is checked and timed on a card: every op and type against float64, then beside torch and a copy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from benchmarks import cuda_timing, report
from benchmarks.cuda_op import CudaOps, Options
from benchmarks.cuda_problem import TYPES, Problem, error, exact, make_inputs, make_outputs, tolerance, torch_form

CALLS = ((True, 0), (True, 1), (True, 4), (False, 1), (False, 4))
"""Whether a call rewrites, and over how many tokens it compresses."""

Shape = tuple[int, int, int, int]
"""Rows, tokens of each, width, value channels."""

SHAPES = ((1, 1, 768, 4), (2, 33, 768, 1), (3, 5, 1000, 2), (2, 9, 256, 8), (2, 7, 37, 3), (1, 2, 4100, 4))
TIMED_ROWS_AND_TOKENS = ((1, 1), (256, 1), (16, 4096))
WIDTH = 768
LARGE = 16 * 4096

HEAD = ("call", "type", "dv", "rows x tokens", "kernel µs", "GB/s", "of the copy", "torch eager", "torch.compile")


class Disagrees(Exception):
    """A kernel is wrong; the message says where and by how much."""


@dataclass(frozen=True)
class Agreement:
    """How the kernels of one op did: the largest share of the tolerance that an output used."""

    op: str
    calls: int
    worst: float


def use_exact_float32() -> None:
    """Keep torch from computing float32 with the mantissas of TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def compare(ops: CudaOps, problem: Problem, device: str, *, trace: bool = True) -> float:
    """Compute a problem and return the largest share of the tolerance that an output used.

    Raises:
        Disagrees: it is more than all of it.
    """
    inputs, outputs = make_inputs(problem, device), make_outputs(problem, device, trace)
    ops.bind(inputs, outputs, problem.options)()
    expected = exact(problem, inputs)
    worst = 0.0
    for name, actual in outputs.items():
        distance, allowed = error(actual, expected[name]), tolerance(problem, name)
        if not distance <= allowed:
            raise Disagrees(f"{problem}: {name} is wrong by {distance:.2g}, allowed {allowed:.2g}")
        worst = max(worst, distance / allowed)
    return worst


def problems(rewrites: bool, taps: int, shapes: Sequence[Shape]) -> Iterator[Problem]:
    """Yield the problems of one op: each type and shape, with the options in turn."""
    options = (Options(), Options(target_scale=4.0), Options(erases=False))
    for index, (name, shape) in enumerate(product(TYPES, shapes)):
        override = ("", "one", "each")[index // 2 % 3] if rewrites else ""
        yield Problem(name, rewrites, taps, *shape, override, options[index % 3])


def check(ops: CudaOps, device: str = "cuda", shapes: Sequence[Shape] = SHAPES) -> list[Agreement]:
    """Hold every op and type against float64.

    Raises:
        Disagrees: one is wrong.
        KernelError: one was refused.
    """
    found = []
    for call in CALLS:
        cases = list(problems(*call, shapes))
        found.append(Agreement(cases[0].op, len(cases), max(compare(ops, case, device) for case in cases)))
    return found


def timed_problems() -> Iterator[Problem]:
    """Yield what is timed: everything for one to many tokens in float32 and bfloat16, many tokens in float16."""
    for name, channels, (rewrites, taps), lead in product(TYPES, (1, 4), CALLS, TIMED_ROWS_AND_TOKENS):
        if name == "float16" and lead[0] * lead[1] < LARGE:
            continue
        if rewrites or channels > 1:
            yield Problem(name, rewrites, taps, *lead, WIDTH, channels)


def is_compiled(problem: Problem) -> bool:
    """Return whether torch.compile is timed, too: it takes many seconds for each shape."""
    large = problem.rows * problem.tokens == LARGE
    return large and problem.rewrites and problem.taps < 2 and problem.type != "float16"


def time_problem(ops: CudaOps, problem: Problem, failures: list[str]) -> list[str]:
    """Return a line of the table: the kernel without its trace, torch, and a copy of as many bytes, in one run.

    Raises:
        Disagrees: the kernel is wrong, so its time means nothing.
    """
    compare(ops, problem, "cuda", trace=False)
    inputs, outputs = make_inputs(problem, "cuda"), make_outputs(problem, "cuda", trace=False)
    runs: dict[str, cuda_timing.Run] = {
        "kernel": ops.bind(inputs, outputs, problem.options),
        "copy": cuda_timing.copy_run(problem.bytes),
        "eager": torch_form(problem, inputs),
    }
    if is_compiled(problem):
        compiled = torch_form(problem, inputs, compiled=True)
        try:
            compiled()
            runs["compiled"] = compiled
        except Exception as error:  # the compiler's trouble must not take the kernel's time with it
            failures.append(f"{problem}: torch.compile: {str(error).strip().splitlines()[0]}")
    return line(problem, cuda_timing.medians(runs))


def line(problem: Problem, seconds: dict[str, float]) -> list[str]:
    """Return a line of the table from the seconds of each form."""
    kernel = seconds["kernel"]

    def slower(form: str) -> str:
        return f"{report.number(seconds[form] / kernel)}x" if form in seconds else ""

    return [
        problem.op,
        problem.type,
        str(problem.value_channels),
        f"{problem.rows} x {problem.tokens}",
        report.number(kernel * 1e6),
        f"{problem.bytes / kernel / 1e9:,.0f}",
        f"{seconds['copy'] / kernel:.0%}",
        slower("eager"),
        slower("compiled"),
    ]


def time_all(ops: CudaOps) -> tuple[list[list[str]], list[str]]:
    """Return the table's lines, and what could not be timed and why."""
    lines: list[list[str]] = []
    failures: list[str] = []
    for problem in timed_problems():
        try:
            lines.append(time_problem(ops, problem, failures))
        except torch.OutOfMemoryError:
            failures.append(f"{problem}: the card has not enough memory")
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return lines, failures
