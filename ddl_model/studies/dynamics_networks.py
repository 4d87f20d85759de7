"""Networks that apply one layer over and over along depth, and differ only in how its output enters the state.

All arms: `c = (RMSNorm(x), instruction)`, `o = SwiGLU(c)`, then a residual rule. Networks of several seeds run side by
side. Shapes: `r` networks, `n` episodes, `L` layers, `d` width of the state, `i` numbers of an instruction.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model import delta
from ddl_model.studies.dynamics_tasks import INSTRUCTION, WIDTH

Rule = Literal["delta", "write_only", "additive", "highway"]

EPS = 1e-5
"""Guard of the norm and of the direction, as in the project's networks."""


@dataclass(frozen=True)
class Arm:
    """A residual rule and the width of the sublayer that brings its network to the common number of parameters.

    `most` is the upper end of the delta gate's range: 2, or 1 for a gate that can erase but not reflect. An arm that
    trains for `times_steps` times as long, or has more parameters, is `extra`: it stands outside the fair comparison.
    """

    title: str
    rule: Rule
    hidden_width: int
    most: float = 2.0
    times_steps: int = 1
    extra: bool = False

    @property
    def beside_output(self) -> int:
        """How many numbers the rule needs from the context beside the sublayer's output."""
        return {"delta": 2, "write_only": 2, "additive": 0, "highway": WIDTH}[self.rule]


ARMS = {
    "delta": Arm("delta, β in (0, 2)", "delta", 32),
    "delta-erase": Arm("delta, β in (0, 1)", "delta", 32, most=1.0),
    "write-only": Arm("write-only", "write_only", 32),
    "additive": Arm("additive", "additive", 33),
    "highway": Arm("highway", "highway", 31),
    "additive-long": Arm("additive, 4 x steps", "additive", 33, times_steps=4, extra=True),
    "additive-wide": Arm("additive, 4 x parameters", "additive", 132, extra=True),
}


class Trajectory(NamedTuple):
    """States before the first and after each layer, and the gate of each layer (highway: the mean over its rows)."""

    states: Float[Tensor, "r n L+1 d"]
    gates: Float[Tensor, "r n L"]


class StackedNetworks(nn.Module):
    """One network per seed; every parameter has the networks as its first axis, and nothing joins them."""

    def __init__(self, arm: Arm, seeds: list[int]) -> None:
        """Draw the weights of each network from its own seed, uniform within 1 / sqrt(inputs)."""
        super().__init__()
        self.arm = arm
        features = 2 * arm.hidden_width + arm.beside_output
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def drawn(inputs: int, *shape: int) -> nn.Parameter:
            rows = [torch.rand(*shape, generator=generator) for generator in generators]
            return nn.Parameter((2 * torch.stack(rows) - 1) / math.sqrt(inputs))

        self.from_state = drawn(WIDTH + INSTRUCTION, WIDTH, features)
        self.from_instruction = drawn(WIDTH + INSTRUCTION, INSTRUCTION, features)
        self.bias = drawn(WIDTH + INSTRUCTION, 1, features)
        self.out = drawn(arm.hidden_width, arm.hidden_width, WIDTH)
        self.out_bias = drawn(arm.hidden_width, 1, WIDTH)

    def parameters_each(self) -> int:
        """Return the number of parameters of one network."""
        return sum(parameter[0].numel() for parameter in self.parameters())

    def forward(self, state: Float[Tensor, "r n d"], instructions: Float[Tensor, "r n L i"]) -> Trajectory:
        """Run the layer once per instruction."""
        heard = instructions.flatten(1, 2) @ self.from_instruction + self.bias
        states, gates = [state], []
        for of_layer in heard.unflatten(1, instructions.shape[1:3]).unbind(2):
            features = of_layer + F.rms_norm(state, (WIDTH,), eps=EPS) @ self.from_state
            sizes = [self.arm.hidden_width, self.arm.hidden_width, self.arm.beside_output]
            activation, value, beside = features.split(sizes, dim=-1)
            output = (F.silu(activation) * value) @ self.out + self.out_bias
            state, gate = self._enter(state, output, beside)
            states.append(state)
            gates.append(gate)
        return Trajectory(torch.stack(states, 2), torch.stack(gates, 2))

    def _enter(
        self, state: Float[Tensor, "r n d"], output: Float[Tensor, "r n d"], beside: Float[Tensor, "r n b"]
    ) -> tuple[Float[Tensor, "r n d"], Float[Tensor, "r n"]]:
        """Return the next state and the gate; a sum has no gate and counts as 1."""
        if self.arm.rule == "additive":
            return state + output, torch.ones_like(state[..., 0])
        if self.arm.rule == "highway":
            transform = torch.sigmoid(beside)
            return state + transform * (output - state), transform.mean(-1)
        k = delta.unit_direction(output, EPS).k
        beta = self.arm.most / 2 * delta.gate_from_logit(beside[..., 0])
        target = beside[..., 1:]
        if self.arm.rule == "write_only":
            return state + beta.unsqueeze(-1) * k * target, beta
        return delta.rewrite(state.unsqueeze(-1), k, target, beta).squeeze(-1), beta
