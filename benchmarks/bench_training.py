"""Time the Triton kernels and a training step on an NVIDIA card: `python -m benchmarks.bench_training [--out FILE]`.

Two tables: each kernel against the card's copy bandwidth, and the paper's 124M model (DDL-CC-EC) against its additive
twin, compiled the same way in the same run, with what was predicted from bytes beside it. Needs torch and triton.
Exit status: 0 when measured, 3 without a card. `--predict` prints the predictions alone, on any machine.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import report
from benchmarks.training_bytes import ADDITIVE, BYTES_PER_SECOND, FLOOR, Plan, Prediction, kernels, predict
from ddl_model.config import LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.training.recipes import additive, paper_124m

NO_CARD = 3
LENGTH = 1024
KEEP_EVERY = 4
WARM_UP, TIMED = 5, 20
RECIPE = paper_124m()
PAPER = "DDL-CC-EC of the paper on an H200: forward 0.668, step 0.767, peak memory 1.05 of its additive model"


def median_milliseconds(run: Callable[[], Any]) -> float:
    """Return the median time of a call on the card, after some that are not counted."""
    times = []
    for index in range(WARM_UP + TIMED):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if index >= WARM_UP:
            times.append(start.elapsed_time(end))
    return sorted(times)[TIMED // 2]


def kernel_rows(tokens: int) -> list[tuple[str, ...]]:
    """Time each kernel on states of 768 x 4 in bfloat16, and a copy of as many bytes."""
    from export.kernels.triton.state_op import StateInputs, StateOptions

    d, dv = 768, 4

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=dtype)

    state, direction = normal(tokens, d, dv), normal(tokens, d)
    beta, target = normal(tokens, dtype=torch.float32), normal(tokens, dv, dtype=torch.float32)
    weight, norm_weight, options = normal(d, dv), normal(d), StateOptions(1e-5, True, 1e-5)
    context, narrow, bias = normal(tokens, d), normal(1 + dv, d), normal(1 + dv)
    fused = StateInputs(state, direction, beta, target, None, weight, norm_weight)
    calls = {
        "rewrite": (torch.ops.ddl_triton.state, (*fused[:4], None, None, None, *options)),
        "compress + norm": (torch.ops.ddl_triton.state, (state, None, None, None, None, weight, norm_weight, *options)),
        "rewrite + compress + norm": (torch.ops.ddl_triton.state, (*fused, *options)),
        "gate and target": (torch.ops.ddl_triton.narrow, (context, narrow, bias)),
    }
    results = torch.ops.ddl_triton.state(*fused, *options)
    given = (*results[:3], None, None)
    calls["rewrite + compress + norm, backward"] = (
        torch.ops.ddl_triton.state_backward,
        (*fused, *options, None, *results[3:], *given),
    )
    gradient = normal(tokens, 1 + dv, dtype=torch.float32)
    calls["gate and target, backward"] = (torch.ops.ddl_triton.narrow_backward, (context, narrow, bias, gradient))
    rows = []
    for name, (operator, arguments) in calls.items():
        outputs = operator(*arguments)
        tensors = (*arguments, *(outputs if isinstance(outputs, tuple) else (outputs,)))
        moved = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
        source = torch.randint(0, 255, (moved // 2,), dtype=torch.uint8, device="cuda")
        sink = torch.empty_like(source)
        took = median_milliseconds(lambda operator=operator, arguments=arguments: operator(*arguments))
        copied = median_milliseconds(lambda source=source, sink=sink: sink.copy_(source))
        rows.append(
            (
                name,
                f"{moved / tokens / 1e3:.1f}",
                report.number(moved / BYTES_PER_SECOND * 1e6),
                report.number(took * 1e3),
                f"{moved / took / 1e6:,.0f}",
                f"{moved / copied / 1e6:,.0f}",
                f"{copied / took:.0%}",
            )
        )
    return rows


class Network(nn.Module):
    """A language model with its loss, its stream of residuals in bfloat16 from the embedding on."""

    def __init__(self, config: LanguageModelConfig, keep_every: int) -> None:
        """Make the model on the card; above 1, one in `keep_every` states is kept for the backward pass."""
        super().__init__()
        with torch.device("cuda"):
            self.model = LanguageModel(config)
        self.model.embedding.register_forward_hook(lambda _module, _inputs, output: output.bfloat16())
        self.run: Callable[..., Tensor] = self.model.forward
        if keep_every > 1:
            from export.kernels.triton.recompute import keep_every as kept

            self.run = kept(self.model, keep_every)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        with torch.autocast("cuda", torch.bfloat16):
            logits = self.run(ids)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def measure(config: LanguageModelConfig, keep_every: int, batch: int) -> Prediction:
    """Return seconds and bytes of one token; the forward pass is timed to the logits, without gradients."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = Network(config, keep_every)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    ids, labels = torch.randint(0, config.vocab_size, (2, batch, LENGTH), device="cuda")
    infer, loss = torch.compile(network.model, dynamic=False), torch.compile(network, dynamic=False)

    @torch.no_grad()
    def forward() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            infer(ids)

    def step() -> None:
        loss(ids, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    tokens = batch * LENGTH
    forward_seconds = median_milliseconds(forward) / 1e3
    step()  # the optimizer's state belongs to what is there before a step
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step_seconds = median_milliseconds(step) / 1e3
    gradients = sum(parameter.nbytes for parameter in network.parameters())
    peak = torch.cuda.max_memory_allocated() - before - gradients
    return Prediction(forward_seconds / tokens, step_seconds / tokens, peak / tokens)


def model_rows(batch: int, *, on_card: bool) -> list[tuple[str, ...]]:
    """Return measured (where there is a card) and predicted figures of the networks and their ratios."""
    model, twin = (recipe.model for recipe in (RECIPE, additive(RECIPE)))
    assert isinstance(model, LanguageModelConfig)
    assert isinstance(twin, LanguageModelConfig)
    from_plain = Plan("delta, plain formula", 0, 0, 0, 0, 0)
    variants = [
        (ADDITIVE, twin, False, 1),
        (from_plain, model, False, 1),
        (kernels(one_input=False), model, True, 1),
        (kernels(one_input=False, keep_every=KEEP_EVERY), model, True, KEEP_EVERY),
    ]
    if not on_card:
        variants = [variants[0], (FLOOR, model, False, 1), *variants[2:]]
    base: dict[str, Prediction] = {}
    rows = []
    for plan, config, with_kernels, every in variants:
        cells = [plan.name]
        found: dict[str, Prediction | str] = {}
        if on_card:
            found["measured"] = _measured(config, with_kernels, every, batch)
        if plan is not from_plain:
            found["predicted"] = predict(config, plan, LENGTH, 123_700_000, batch * LENGTH)
        for kind in ("measured", "predicted"):
            result = found.get(kind, "")
            if isinstance(result, str):
                cells += [result or "-"] * 3
                continue
            first = base.setdefault(kind, result)
            for value, one in zip(_units(result), _units(first), strict=True):
                ratio = value / one
                cells.append(f"{report.number(value)} ({ratio:.2f})")
        rows.append(tuple(cells))
    return rows


def _units(result: Prediction) -> tuple[float, float, float]:
    """Return thousands of tokens per second forward and in training, and kilobytes of a token at the peak."""
    return 1e-3 / result.forward_seconds, 1e-3 / result.step_seconds, result.peak_bytes / 1e3


def _measured(config: LanguageModelConfig, with_kernels: bool, every: int, batch: int) -> Prediction | str:
    from export.kernels import triton

    triton.disable()
    if with_kernels:
        triton.enable()
    try:
        return measure(config, every, batch)
    except torch.OutOfMemoryError:
        return "out of memory"
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Time the Triton kernels and a training step on an NVIDIA card.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the tables in a Markdown file")
    parser.add_argument("--batch", type=int, default=64, help=f"rows of {LENGTH} tokens in a batch (default 64)")
    parser.add_argument("--predict", action="store_true", help="print predictions alone, without a card")
    options = parser.parse_args()
    on_card = torch.cuda.is_available() and not options.predict
    if not on_card and not options.predict:
        print("No NVIDIA card that torch can use: nothing was measured. --predict needs none.", file=sys.stderr)
        return NO_CARD
    unit = ("forward, k tokens/s", "step, k tokens/s", "peak kB/token")
    head = ("network", *(f"{name}, {kind}" for kind in ("measured", "predicted") for name in unit))
    lines = [
        "# Training on an NVIDIA card",
        "",
        f"- {report.today()}, {torch.cuda.get_device_name() if on_card else 'no card: predictions alone'}",
        f"- {report.versions('torch', 'triton')}",
        f"- 124M parameters, {options.batch} x {LENGTH} tokens, bfloat16, float32 weights, torch.compile, fused AdamW",
        "- in brackets: of the additive network, in the same column; peak: without weights, gradients and optimizer",
        f"- {PAPER}",
        "",
        report.table(head, model_rows(options.batch, on_card=on_card)),
    ]
    if on_card:
        lines += [
            "",
            report.table(
                ("kernel", "kB/token", "predicted µs", "µs", "GB/s", "copy GB/s", "of the copy's speed"),
                kernel_rows(options.batch * LENGTH),
            ),
        ]
    report.publish("\n".join(lines), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
