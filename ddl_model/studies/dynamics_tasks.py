"""Tasks along depth with a known answer: every layer is told to flip, reflect or overwrite one direction of the state.

Shapes: `n` episodes, `L` layers, `d` width of the state, `i` numbers of an instruction. An instruction is a unit
direction (d numbers), a bit and a value. The truth is computed in closed form from coordinates, never by a rewrite. The
state keeps its length sqrt(d) in every task, so a norm before the sublayer hides nothing from it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WIDTH = 4
INSTRUCTION = WIDTH + 2


class Episodes(NamedTuple):
    """What the layers are told, the states that they should make of it, and a direction that is worth watching."""

    instructions: Float[Tensor, "n L i"]
    states: Float[Tensor, "n L+1 d"]
    probe: Float[Tensor, "n d"]


class Script(NamedTuple):
    """Episodes in coordinates of an orthonormal basis that is still to be chosen."""

    directions: Float[Tensor, "n L d"]
    bits: Float[Tensor, "n L"]
    values: Float[Tensor, "n L"]
    states: Float[Tensor, "n L+1 d"]


def _on_sphere(count: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    return math.sqrt(WIDTH) * F.normalize(torch.randn(count, WIDTH, generator=generator), dim=-1)


def _coins(count: int, layers: int, generator: torch.Generator) -> Float[Tensor, "n L"]:
    return torch.randint(2, (count, layers), generator=generator).float()


def flips(count: int, layers: int, generator: torch.Generator) -> Script:
    """Script the parity of bits: coordinate 0 changes its sign with every bit that is 1, the others stay."""
    bits = _coins(count, layers, generator)
    signs = F.pad(1 - 2 * (bits.cumsum(-1) % 2), (1, 0), value=1.0)
    states = _on_sphere(count, generator).unsqueeze(1).repeat(1, layers + 1, 1)
    states[..., 0] *= signs
    directions = torch.zeros(count, layers, WIDTH)
    directions[..., 0] = 1.0
    return Script(directions, bits, torch.zeros(count, layers), states)


def rotations(count: int, layers: int, generator: torch.Generator) -> Script:
    """Script reflections along two directions by turns, half of an angle apart: each two layers rotate by the angle."""
    angle = math.pi * (2 * torch.rand(count, 1, generator=generator) - 1)
    first = _on_sphere(count, generator)
    depth = torch.arange(layers + 1)
    turned = torch.atan2(first[:, 1], first[:, 0]).unsqueeze(-1) + depth.div(2, rounding_mode="floor") * angle
    # After an odd number of reflections the last one, along coordinate 0, mirrors the angle about the other axis.
    turned = torch.where(depth % 2 == 1, math.pi - turned, turned)
    radius = torch.linalg.vector_norm(first[:, :2], dim=-1, keepdim=True)
    states = first.unsqueeze(1).repeat(1, layers + 1, 1)
    states[..., 0], states[..., 1] = radius * turned.cos(), radius * turned.sin()
    half = torch.where(torch.arange(layers) % 2 == 1, angle / 2, 0.0)
    directions = F.pad(torch.stack([half.cos(), half.sin()], -1), (0, WIDTH - 2))
    return Script(directions, torch.ones(count, layers), torch.zeros(count, layers), states)


def overwrites(count: int, layers: int, generator: torch.Generator) -> Script:
    """Script a memory of d slots that hold 1 or -1: bit 1 writes a value into a slot, bit 0 names both in vain."""
    bits = _coins(count, layers, generator)
    values = 2 * _coins(count, layers, generator) - 1
    slots = F.one_hot(torch.randint(WIDTH, (count, layers), generator=generator), WIDTH).float()
    memory = 2 * _coins(count, WIDTH, generator) - 1
    states = [memory]
    for layer in range(layers):
        written = (slots[:, layer] * bits[:, layer, None]).bool()
        states.append(torch.where(written, values[:, layer, None], states[-1]))
    return Script(slots, bits, values, torch.stack(states, 1))


@dataclass(frozen=True)
class Task:
    """A script, the basis it is played in, and which states are compared with the truth while training.

    `free_directions`: a new random basis per episode. Otherwise the coordinate axes in random order: as few directions
    as the state has rows, which a sublayer can learn by heart. `every_depth`: the state after each layer counts,
    otherwise the last one alone. `watched`: the coordinate whose direction is the probe. `control`: beside the main
    tasks, to see where their result comes from.
    """

    title: str
    script: Callable[[int, int, torch.Generator], Script]
    on: str
    off: str
    free_directions: bool = True
    every_depth: bool = True
    watched: int = 0
    control: bool = False

    def episodes(self, count: int, layers: int, generator: torch.Generator) -> Episodes:
        """Draw episodes; the same generator state gives the same ones."""
        script = self.script(count, layers, generator)
        if self.free_directions:
            basis: Tensor = torch.linalg.qr(torch.randn(count, WIDTH, WIDTH, generator=generator)).Q
        else:
            basis = torch.eye(WIDTH)[torch.rand(count, WIDTH, generator=generator).argsort(-1)]
        numbers = torch.stack([script.bits, script.values], -1)
        instructions = torch.cat([script.directions @ basis.mT, numbers], -1)
        return Episodes(instructions, script.states @ basis.mT, basis[..., self.watched])


TASKS = {
    "flip": Task("sign flip", flips, on="flip", off="keep"),
    "rotate": Task("rotation by reflections", rotations, on="reflect", off="", watched=1),
    "overwrite": Task("overwrite memory", overwrites, on="write", off="keep"),
    "overwrite-axes": Task(
        "overwrite, known slots", overwrites, on="write", off="keep", free_directions=False, control=True
    ),
    "flip-last": Task("sign flip, last state scored", flips, on="flip", off="keep", every_depth=False, control=True),
}
