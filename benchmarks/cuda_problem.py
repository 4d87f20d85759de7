"""Problems for the kernels on a card, what they should give in float64, and the same in torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks.cuda_op import Options
from ddl_model import compress_op, delta_op

Tensors = dict[str, Tensor]

TRACE = ("beta", "gate_logit", "target", "readout", "direction_norm")
READ = ("compressed", "next_context")

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LAST_BIT = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Problem:
    """One call: what it does, on which shapes."""

    type: str
    rewrites: bool
    taps: int
    """0: does not compress; 1: over channels; more: over tokens, too."""
    rows: int
    tokens: int
    width: int
    value_channels: int
    override: str = ""
    """`one` for all tokens, or `each`."""
    options: Options = field(default_factory=Options)

    @property
    def op(self) -> str:
        """The name of the op that computes it."""
        compress = {0: "", 1: "CompressNorm"}.get(self.taps, "TokenCompressNorm")
        return ("DeltaRewrite" if self.rewrites else "") + compress

    def __str__(self) -> str:
        shape = f"({self.rows}, {self.tokens}, {self.width}, {self.value_channels})"
        return f"{self.op} {self.type} {shape}" + (f" taps {self.taps}" if self.taps > 1 else "")

    @property
    def bytes(self) -> int:
        """What a call must read and write at least, without the trace: every tensor with a token axis once."""
        state, row = self.value_channels, 1
        moved = (2 * state + 3 * row if self.rewrites else state) + (2 * row if self.taps else 0)
        return moved * self.rows * self.tokens * self.width * TYPES[self.type].itemsize


def make_inputs(problem: Problem, device: str, seed: int = 0) -> Tensors:
    """Draw the inputs of a problem: all of order 1, products of order 1."""
    generator = torch.Generator(device=device).manual_seed(seed)
    lead, width, channels = (problem.rows, problem.tokens), problem.width, problem.value_channels

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        numbers = torch.randn(shape, generator=generator, device=device) * scale
        return numbers.to(TYPES[problem.type])

    inputs = {"state": draw(*lead, width, channels)}
    if problem.rewrites:
        inputs |= {name: draw(*lead, width) for name in ("direction", "context", "target_input")}
        inputs["gate_weight"], inputs["gate_bias"] = draw(1, width, scale=width**-0.5), draw(1)
        inputs["target_weight"], inputs["target_bias"] = draw(channels, width, scale=width**-0.5), draw(channels)
        if problem.override:
            inputs["override"] = make_override(lead if problem.override == "each" else (1, 1), device)
    if problem.taps > 1:
        inputs["history"] = draw(problem.rows, problem.taps - 1, width, channels)
    if problem.taps:
        taps = (problem.taps,) if problem.taps > 1 else ()
        inputs["compress_weight"] = draw(width, channels, *taps, scale=(channels * problem.taps) ** -0.5)
        inputs["norm_weight"] = draw(width)
    return inputs


def make_override(lead: tuple[int, int], device: str) -> Tensor:
    """Return overrides that differ from token to token: scaled, replaced, cut, without erasing, without writing."""
    kinds = [(1, 0, 0, 2, 1, 1), (0, 1, 0, 2, 1, 1), (0.5, 0.2, 0.3, 0.9, 1, 1), (1, 0, 0, 2, 0, 1), (1, 0, 0, 2, 1, 0)]
    count = lead[0] * lead[1]
    return torch.tensor([kinds[(i + 2) % 5] for i in range(count)], dtype=torch.float32, device=device).view(*lead, 6)


def make_outputs(problem: Problem, device: str, trace: bool = True) -> Tensors:
    """Return memory for the outputs, full of NaN."""
    lead = (problem.rows, problem.tokens)

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.full((*lead, *shape), float("nan"), dtype=dtype, device=device)

    outputs: Tensors = {}
    if problem.rewrites:
        state = (problem.width, problem.value_channels)
        outputs["new_state"] = empty(*state, dtype=TYPES[problem.type])
        if trace:
            for name in TRACE:
                channels = (problem.value_channels,) if name in ("target", "readout") else ()
                outputs[name] = empty(*channels, dtype=torch.float32)
    if problem.taps:
        outputs |= {name: empty(problem.width, dtype=TYPES[problem.type]) for name in READ}
    return outputs


def torch_form(problem: Problem, inputs: Tensors, compiled: bool = False) -> Callable[[], Tensors]:
    """Return the formulas of the model in torch, eager or compiled for this shape."""
    options = problem.options
    forms: dict[tuple[bool, int], Callable[..., tuple[Tensor, ...]]] = {
        (True, 0): delta_op.plain_delta_rewrite,
        (True, 1): compress_op.plain_delta_rewrite_compress_norm,
        (True, 2): compress_op.plain_delta_rewrite_token_compress_norm,
        (False, 1): compress_op.plain_compress_norm,
        (False, 2): compress_op.plain_token_compress_norm,
    }
    function = forms[problem.rewrites, min(problem.taps, 2)]
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)
    names = ("new_state", *(READ if problem.taps else ()), *TRACE) if problem.rewrites else READ
    arguments = [tensor for name, tensor in inputs.items() if name != "override"]
    rest: list[object] = []
    if problem.rewrites:
        rest += [options.direction_eps, options.target_scale, options.erases, inputs.get("override")]
    if problem.taps:
        rest.append(options.norm_eps)

    def run() -> Tensors:
        with torch.inference_mode():
            return dict(zip(names, function(*arguments, *rest), strict=True))

    return run


def exact(problem: Problem, inputs: Tensors) -> Tensors:
    """Return the outputs in float64, from the very numbers of the inputs."""
    doubled = {name: tensor.double() for name, tensor in inputs.items()}
    return torch_form(replace(problem, type="float32"), doubled)()


def tolerance(problem: Problem, output: str) -> float:
    """Return the largest allowed error, in units of each token's largest value (at least 1).

    float32 sums in another order cost a few bits; the result is rounded to its type, and what is compressed was
    rounded before.
    """
    typed = output in ("new_state", *READ)
    twice = problem.rewrites and output in READ
    return 1.2e-5 + (LAST_BIT[problem.type] if typed else 0.0) * (4 if twice else 1)


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest error in those units; NaN counts as infinite."""
    last = tuple(range(2, expected.ndim))
    size = expected.abs().amax(last, keepdim=True) if last else expected.abs()
    worst = ((actual.double() - expected).abs() / size.clamp(min=1.0)).nan_to_num(nan=float("inf")).max()
    return float(worst)
