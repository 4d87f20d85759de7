"""Run a graph on an input and compute gate quantities from its outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Gates, Manifest
from service.errors import ModelFailed
from service.gates.quantities import QUANTITIES, Captured
from service.gates.selection import Selection
from service.runtime.session import Session


@dataclass(frozen=True)
class Trace:
    """One row of the input: each quantity as float32 (site, position[, channel]), and the class probabilities."""

    quantities: dict[str, NDArray[np.float32]]
    probabilities: NDArray[np.float32]


def position_count(manifest: Manifest, gates: Gates) -> int:
    """Return how many positions every input of this model has."""
    if gates.positions.grid is not None:
        return gates.positions.grid[0] * gates.positions.grid[1]
    first = next(iter(gates.outputs.values()))[0]
    return next(spec.shape[1] for spec in manifest.graph.outputs if spec.name == first)


def run_trace(
    session: Session,
    manifest: Manifest,
    gates: Gates,
    feed: NDArray[np.float32],
    selection: Selection,
    quantities: Sequence[str],
) -> list[Trace]:
    """Run the graph once and return a trace for each row of `feed`.

    Raises:
        ModelFailed: the graph did not run, or a gate output has another number of positions than promised.
    """
    captured = sorted({name for quantity in quantities for name in QUANTITIES[quantity].needs})
    per_site = {name: [gates.outputs[name][site.index] for site in selection.sites] for name in captured}
    task = manifest.classification
    probabilities = task.probabilities
    wanted = [probabilities, *(output for outputs in per_site.values() for output in outputs)]
    outputs = session.run({task.image.tensor: feed}, wanted)
    count = position_count(manifest, gates)
    stacks = {
        name: _stack([outputs[output] for output in per_site[name]], selection.positions, count) for name in captured
    }
    traces = []
    for row in range(len(feed)):
        of_row = Captured(
            {name: stack[:, row] for name, stack in stacks.items()}, gates.direction_eps, gates.update_rule
        )
        with np.errstate(all="ignore"):  # what is not finite is counted later
            values = {name: np.ascontiguousarray(QUANTITIES[name].compute(of_row), np.float32) for name in quantities}
        traces.append(Trace(values, outputs[probabilities][row]))
    return traces


def _stack(arrays: Sequence[NDArray[Any]], positions: Sequence[int], count: int) -> NDArray[Any]:
    """Stack outputs (batch, position, ...) of the sites to (site, batch, position, ...), positions as selected."""
    for array in arrays:
        if array.shape[1] != count:
            raise ModelFailed(f"a gate output has {array.shape[1]} positions, the manifest promises {count}")
    return np.stack([array[:, list(positions)] for array in arrays])
