"""Replay a bundle's golden samples: does this machine give the numbers that were recorded at export?"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from service.bundle import Golden, StepGraph
from service.errors import BundleDisagrees, BundleInvalid
from service.runtime.session import Arrays, Session
from service.runtime.step_session import empty_cache


def replay(session: Session, path: Path, golden: Golden, *, seconds: float | None = None) -> float:
    """Run the recorded inputs and return the largest `difference` from the recorded outputs.

    Raises:
        ModelFailed: they could not be run, or not within `seconds`.
        BundleInvalid: the file is not readable, or its tensors are not those of the graph.
        BundleDisagrees: an output differs by more than the tolerance, or is not a number where one was recorded.
    """
    feeds, recorded = read_samples(session, path, golden)
    answered = session.run(feeds, list(recorded), seconds=seconds)
    return _compare(answered, recorded, path, golden.tolerance)


def replay_steps(session: Session, path: Path, step: StepGraph, *, seconds: float | None = None) -> float:
    """Run the recorded steps in a row, from an empty cache, and return the largest `difference` from what they gave.

    Raises:
        ModelFailed: a step could not be run, or not within `seconds`.
        BundleInvalid: the file is not readable, or its tensors are not those of the steps.
        BundleDisagrees: an output differs by more than the tolerance, or is not a number where one was recorded.
    """
    tensors = _read(path)
    golden, worst = step.golden, 0.0
    parts = [(_begun_with(tensors, f"{n}/input/"), _begun_with(tensors, f"{n}/output/")) for n in range(golden.steps)]
    takes = {step.tokens, step.lengths, step.counts, step.wanted}
    known = {info.name for info in session.outputs}
    if any(feeds.keys() != takes or not recorded or recorded.keys() - known for feeds, recorded in parts):
        raise BundleInvalid(f"{path}: its tensors {sorted(tensors)} do not fit {golden.steps} steps of the graph")
    rows = len(parts[0][0][step.tokens])
    cache = {tensor.past: empty_cache(tensor, rows, golden.slots) for tensor in step.cache}
    presents = [tensor.present for tensor in step.cache]
    for feeds, recorded in parts:
        answered = session.run({**feeds, **cache}, [*recorded, *presents], seconds=seconds)
        worst = max(worst, _compare(answered, recorded, path, golden.tolerance))
        cache = {tensor.past: answered[tensor.present] for tensor in step.cache}
    return worst


def _compare(answered: Arrays, recorded: Arrays, path: Path, tolerance: float) -> float:
    """Return the largest difference.

    Raises:
        BundleDisagrees: it is above the tolerance, or shapes differ.
    """
    worst = 0.0
    for name, expected in recorded.items():
        actual = answered[name]
        if actual.shape != expected.shape:
            raise BundleDisagrees(
                f"{path}: output {name!r} has shape {list(actual.shape)}, recorded was {list(expected.shape)}"
            )
        distance = difference(actual, expected)
        if distance > tolerance:
            raise BundleDisagrees(
                f"{path}: output {name!r} differs by {distance:.3g} from the recorded samples, "
                f"allowed are {tolerance:.3g}"
            )
        worst = max(worst, distance)
    return worst


def difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference: absolute for expected values up to 1, relative above.

    It is infinite where only one side is a number, or both are infinite and not alike.
    """
    exact, wanted = actual.astype(np.float64), expected.astype(np.float64)
    alike = (exact == wanted) | (np.isnan(exact) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        distance = np.where(alike, 0.0, np.abs(exact - wanted) / np.maximum(1.0, np.abs(wanted)))
    # NaN would compare as "not larger than the tolerance".
    return float(np.where(np.isnan(distance), np.inf, distance).max(initial=0.0))


def read_samples(
    session: Session, path: Path, golden: Golden
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the recorded inputs and outputs.

    Raises:
        BundleInvalid: the file is not readable, or its tensors are not those of the graph.
    """
    tensors = _read(path)
    feeds, recorded = _begun_with(tensors, "input/"), _begun_with(tensors, "output/")
    known = {info.name for info in session.outputs}
    if feeds.keys() != {info.name for info in session.inputs} or not recorded or recorded.keys() - known:
        raise BundleInvalid(f"{path}: its tensors {sorted(tensors)} do not fit the graph's inputs and outputs")
    for name, array in tensors.items():
        if array.ndim == 0 or array.shape[0] != golden.samples:
            raise BundleInvalid(f"{path}: {name!r} has shape {list(array.shape)} for {golden.samples} samples")
    return feeds, recorded


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleInvalid(f"{path} cannot be read: {error}") from error


def _begun_with(tensors: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    """Return the tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
