"""Time the paper's 124M model beside its additive twin: `python -m benchmarks.bench_model [--torch] [--out FILE]`.

Both networks are exported the same way and run on one thread, step by step in turn; the clock is the process's CPU
time. Where weights come to lie in memory changes a decode step by several percent, so the sessions are opened anew for
each round, and weights lie in large pages (glibc's `hugetlb`, for which the program starts itself again).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import report
from benchmarks.model_forms import Floats, RuntimeStep, Step, Work, free, runtime_session, torch_step
from benchmarks.model_profile import profile_rows
from ddl_model.config import LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training.recipes import additive, paper_124m
from export.kernels import build
from export.language.step_graph import export_step_graph

LARGE_PAGES = "glibc.malloc.hugetlb=1"
STEPS = {"forward": 2, "decode": 16}
"""How many steps of each form a round has; the fastest counts."""

GOALS = {"forward": 0.93, "decode": 0.97}
"""The share of the additive network's tokens/s that the kernels should reach."""

DELTA, ADDITIVE = "delta", "additive"
KERNELS, PLAIN = "kernels", "plain bodies"
TORCH_FORMS = {"torch eager": False, "torch.compile": True}


class Pair(NamedTuple):
    """CPU seconds of a step of both networks in one round."""

    delta: float
    additive: float


Samples = dict[tuple[str, str], list[Pair]]
"""By work and form, one pair for each round."""


def networks(layers: int) -> dict[str, LanguageModel]:
    """Return the delta network and its additive twin with random weights."""
    recipe = paper_124m()
    found = {}
    for name, config in ((DELTA, recipe.model), (ADDITIVE, additive(recipe).model)):
        assert isinstance(config, LanguageModelConfig)
        torch.manual_seed(0)
        found[name] = LanguageModel(replace(config, layers=layers)).eval()
    return found


def check(step: Step, expected: Floats, what: str) -> None:
    """Raise AssertionError unless a step gives these logits."""
    error = float(np.abs(step() - expected).max() / np.abs(expected).max())
    assert error < 1e-4, f"{what}: logits differ by {error:.1g} of the largest"


def check_runtime(files: Mapping[str, Path], models: Mapping[str, LanguageModel], library: Path, work: Work) -> None:
    """Raise AssertionError unless each form in ONNX Runtime gives torch's logits."""
    for name, form, kernels in ((DELTA, KERNELS, library), (DELTA, PLAIN, None), (ADDITIVE, PLAIN, None)):
        expected = torch_step(models[name], work, compiled=False)()
        check(RuntimeStep(runtime_session(files[name], kernels), work), expected, f"{name}, {form}")
        free()


def fastest(steps: Mapping[str, Step], count: int) -> dict[str, float]:
    """Return the CPU seconds of each form's fastest step, of `count` in turn with the others."""
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(count):
        for name, step in steps.items():
            start = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - start)
    return best


def runtime_samples(files: Mapping[str, Path], library: Path, works: Mapping[str, Work], rounds: int) -> Samples:
    """Time ONNX Runtime in sessions of their own for each round, opened in another order each time."""
    samples: Samples = {(work, form): [] for work in works for form in (KERNELS, PLAIN)}
    # The additive network has no custom op: it is the same with kernels and without.
    forms = [(KERNELS, DELTA, library), (PLAIN, DELTA, None), (ADDITIVE, ADDITIVE, None)]
    for number in range(rounds):
        print(f"timing ONNX Runtime, round {number + 1} of {rounds} ...", file=sys.stderr)
        order = forms[number % len(forms) :] + forms[: number % len(forms)]
        sessions = {form: runtime_session(files[name], kernels) for form, name, kernels in order}
        for name, work in works.items():
            steps = {form: RuntimeStep(session, work) for form, session in sessions.items()}
            seconds = fastest(steps, STEPS[name])
            for form in (KERNELS, PLAIN):
                samples[name, form].append(Pair(seconds[form], seconds[ADDITIVE]))
        del sessions, steps
        free()
    return samples


def torch_samples(models: Mapping[str, LanguageModel], works: Mapping[str, Work], rounds: int) -> Samples:
    """Time torch, eager and compiled."""
    samples: Samples = {}
    for form, compiled in TORCH_FORMS.items():
        for name, work in works.items():
            print(f"timing {form}, {name} ...", file=sys.stderr)
            steps = {network: torch_step(model, work, compiled=compiled) for network, model in models.items()}
            for network, step in steps.items() if compiled else ():
                check(step, torch_step(models[network], work, compiled=False)(), f"{network}, {form}")
            samples[name, form] = [Pair(**fastest(steps, STEPS[name])) for _ in range(rounds)]
            free()
    return samples


def rows(samples: Samples, works: Mapping[str, Work]) -> list[list[str]]:
    """Return one line for each work and form: both networks' times, tokens/s, and the share of the additive's."""
    lines = []
    for (work, form), pairs in sorted(samples.items(), key=lambda item: list(works).index(item[0][0])):
        delta, twin = (statistics.median(values) for values in zip(*pairs, strict=True))
        ratios = [pair.additive / pair.delta for pair in pairs]
        low, share, high = statistics.quantiles(ratios, n=4)
        tokens = works[work].tokens
        lines.append(
            [
                work,
                form,
                *(report.number(seconds * 1e3) for seconds in (delta, twin)),
                *(report.number(tokens / seconds) for seconds in (delta, twin)),
                f"{share:.3f} ± {(high - low) / 2:.3f}",
                f"{GOALS[work]:.2f}" if form == KERNELS else "",
            ]
        )
    return lines


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Time a delta language model beside its additive twin on one thread.")
    parser.add_argument("--layers", type=int, default=12, help="layers of both networks (default: 12, the 124M model)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a forward pass, and of the decode context")
    parser.add_argument("--rounds", type=int, default=5, help="how often sessions are opened and timed (default: 5)")
    parser.add_argument("--torch", action="store_true", help="time torch eager and torch.compile as well")
    parser.add_argument("--profile", action="store_true", help="show which operators the extra time goes to")
    parser.add_argument("--library", type=Path, default=build.LIBRARY, metavar="FILE", help="the op library")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the tables in a Markdown file")
    options = parser.parse_args()
    if not options.library.is_file():
        print(f"{options.library} is missing: python -m export.kernels.build", file=sys.stderr)
        return 1
    if "GLIBC_TUNABLES" not in os.environ:
        command = [sys.executable, "-m", "benchmarks.bench_model", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"GLIBC_TUNABLES": LARGE_PAGES})
    torch.set_num_threads(1)
    models = networks(options.layers)
    vocabulary = models[DELTA].config.vocab_size
    works = {"forward": Work(options.tokens, 0, vocabulary), "decode": Work(1, options.tokens, vocabulary)}
    profiles: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in models}
        for name, model in models.items():
            print(f"exporting {name} ...", file=sys.stderr)
            export_step_graph(model).save(str(files[name]))
        for work in works.values():
            check_runtime(files, models, options.library, work)
        samples = runtime_samples(files, options.library, works, options.rounds)
        if options.profile:
            profiles = profile_rows(files, options.library, works)
    if options.torch:
        samples |= torch_samples(models, works, options.rounds)
    parameters = sum(parameter.numel() for parameter in models[DELTA].parameters())
    isa = build.library_info(options.library)["isa"]
    head = ["work", "form", "delta ms", "additive ms", "delta tokens/s", "additive tokens/s", "share", "goal"]
    text = [
        f"# A delta language model beside its additive twin, {parameters / 1e6:.0f} M parameters, float32, one thread",
        "",
        f"- {report.today()}, {report.processor()}, GLIBC_TUNABLES={os.environ['GLIBC_TUNABLES']}",
        f"- {report.versions('onnxruntime', 'torch', 'numpy')}, kernels for {isa}",
        f"- DDL-CC-EC, d = 768, d_v = 4, {options.layers} layers, vocabulary {vocabulary}, batch 1, random weights",
        f"- forward: {options.tokens} tokens on an empty cache; decode: one token behind {options.tokens}; both with "
        "the logits of the last token",
        f"- CPU milliseconds of the fastest of {STEPS['forward']} or {STEPS['decode']} steps in turn, median of "
        f"{options.rounds} rounds; share: tokens/s of the additive twin that remain, median of the rounds ± half the "
        "interquartile range",
        "- both networks go through the same exporter; the additive one has standard operators alone",
        "",
        report.table(head, rows(samples, works)),
    ]
    if profiles:
        text += [
            "",
            "Microseconds of a step by operator: of each node the fastest run, from ONNX Runtime's profile.",
            "",
        ]
        text.append(report.table(["work", "operator", "delta, kernels", "additive", "extra"], profiles))
    report.publish("\n".join(text), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
