"""Time the paper's 124M model beside its additive twin: `python -m benchmarks.bench_model [--torch] [--out FILE]`.

Both networks are exported the same way and run on one thread, in interleaved steps; the clock is the process's CPU
time. A round gives each form's time and its ratio to the additive network in the same round.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import report
from benchmarks.model_forms import Step, Work, free, runtime_session, runtime_step, torch_step
from benchmarks.model_profile import profile_rows
from ddl_model.config import LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training.recipes import additive, paper_124m
from export.kernels import build
from export.language.step_graph import export_step_graph

DELTA, ADDITIVE = "delta", "additive"
DECODE_STEPS = 8
GOALS = {"forward": 0.93, "decode": 0.97}


def networks(layers: int) -> dict[str, LanguageModel]:
    """Return the delta network and its additive twin with random weights."""
    recipe = paper_124m()
    found = {}
    for name, config in ((DELTA, recipe.model), (ADDITIVE, additive(recipe).model)):
        assert isinstance(config, LanguageModelConfig)
        torch.manual_seed(0)
        found[name] = LanguageModel(replace(config, layers=layers)).eval()
    return found


def check(steps: Mapping[str, Step], expected: Step) -> None:
    """Raise AssertionError unless the forms of one network give the logits of torch."""
    with torch.inference_mode():
        logits = expected()
    scale = np.abs(logits).max()
    for name, step in steps.items():
        error = np.abs(step() - logits).max() / scale
        assert error < 1e-4, f"{name}: logits differ by {error:.1g} of the largest"


def measure(forms: Mapping[str, Mapping[str, Step]], rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Return the CPU seconds of a step of each form (name, network) in each round, steps interleaved."""
    samples = {name: {network: [] for network in pair} for name, pair in forms.items()}
    for _ in range(rounds):
        spent = {(name, network): 0.0 for name, pair in forms.items() for network in pair}
        for _ in range(steps):
            for name, network in spent:
                start = time.process_time()
                forms[name][network]()
                spent[name, network] += time.process_time() - start
        for (name, network), seconds in spent.items():
            samples[name][network].append(seconds / steps)
    return samples


def spread(values: list[float]) -> float:
    """Return half the interquartile range."""
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def rows(work: str, tokens: int, samples: Mapping[str, Mapping[str, list[float]]]) -> list[list[str]]:
    """Return one line for each form: times of both networks, tokens/s of delta, and its share of the additive's."""
    lines = []
    for form, pair in samples.items():
        ratios = [twin / own for own, twin in zip(pair[DELTA], pair[ADDITIVE], strict=True)]
        times = [f"{report.number(statistics.median(pair[name]) * 1e3)}" for name in (DELTA, ADDITIVE)]
        speed = report.number(tokens / statistics.median(pair[DELTA]))
        goal = f"{GOALS[work]:.2f}" if form == "kernels" else ""
        lines.append([work, form, *times, speed, f"{statistics.median(ratios):.3f} ± {spread(ratios):.3f}", goal])
    return lines


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Time a delta language model beside its additive twin on one thread.")
    parser.add_argument("--layers", type=int, default=12, help="layers of both networks (default: 12, the 124M model)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a forward pass, and of the decode context")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    parser.add_argument("--torch", action="store_true", help="time torch eager and torch.compile as well")
    parser.add_argument("--profile", action="store_true", help="show which operators the extra time goes to")
    parser.add_argument("--library", type=Path, default=build.LIBRARY, metavar="FILE", help="the op library")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the tables in a Markdown file")
    options = parser.parse_args()
    if not options.library.is_file():
        print(f"{options.library} is missing: python -m export.kernels.build", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    models = networks(options.layers)
    parameters = sum(parameter.numel() for parameter in models[DELTA].parameters())
    vocabulary = models[DELTA].config.vocab_size
    works = {"forward": Work(options.tokens, 0, vocabulary), "decode": Work(1, options.tokens, vocabulary)}
    lines: list[list[str]] = []
    profiles: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in models}
        for name, model in models.items():
            print(f"exporting {name} ...", file=sys.stderr)
            export_step_graph(model).save(str(files[name]))
        # The additive twin has no custom op: it is the same with kernels and without.
        plain = {name: runtime_session(file, None) for name, file in files.items()}
        fast = runtime_session(files[DELTA], options.library)
        for name, work in works.items():
            forms: dict[str, dict[str, Step]] = {
                "kernels": {DELTA: runtime_step(fast, work)},
                "plain bodies": {DELTA: runtime_step(plain[DELTA], work)},
            }
            twin = runtime_step(plain[ADDITIVE], work)
            check({form: pair[DELTA] for form, pair in forms.items()}, torch_step(models[DELTA], work, compiled=False))
            check({"additive": twin}, torch_step(models[ADDITIVE], work, compiled=False))
            for pair in forms.values():
                pair[ADDITIVE] = twin
            print(f"timing {name} ...", file=sys.stderr)
            lines += rows(name, work.inputs["counts"].item(), measure(forms, options.rounds, steps_of(name)))
        del plain, fast, forms, twin
        free()
        if options.profile:
            profiles = profile_rows(files, options.library, works)
    if options.torch:
        for form, compiled in (("torch eager", False), ("torch.compile", True)):
            for name, work in works.items():
                print(f"timing {form}, {name} ...", file=sys.stderr)
                pair = {network: torch_step(model, work, compiled=compiled) for network, model in models.items()}
                for step in pair.values():
                    step()
                samples = measure({form: pair}, options.rounds, steps_of(name))
                lines += rows(name, work.inputs["counts"].item(), samples)
                free()
    isa = build.library_info(options.library)["isa"]
    head = ["work", "form", "delta ms", "additive ms", "delta tokens/s", "share of additive tokens/s", "goal"]
    text = [
        f"# Delta language model beside its additive twin, {parameters / 1e6:.0f} M parameters, float32, one thread",
        "",
        f"- {report.today()}, {report.processor()}",
        f"- {report.versions('onnxruntime', 'torch', 'numpy')}, kernels for {isa}",
        f"- DDL-CC-EC, d = 768, d_v = 4, {options.layers} layers, vocabulary {vocabulary}, batch 1, random weights",
        f"- forward: {options.tokens} tokens on an empty cache; decode: one token behind {options.tokens}; "
        "logits of the last token",
        f"- CPU milliseconds of a step: median of {options.rounds} interleaved rounds; share: median of the rounds' "
        "ratios ± half the interquartile range",
        "- both networks go through the same exporter; the additive one has standard operators alone",
        "",
        report.table(head, lines),
    ]
    if profiles:
        text += ["", "Where a step's time goes, from ONNX Runtime's profile (microseconds, median run):", ""]
        text.append(report.table(["work", "operators", "delta, kernels", "additive", "extra"], profiles))
    report.publish("\n".join(text), options.out)
    return 0


def steps_of(work: str) -> int:
    """Return how many steps of a kind of work make one sample."""
    return DECODE_STEPS if work == "decode" else 1


if __name__ == "__main__":
    sys.exit(main())
