"""From what a run captured to the quantities that were asked for, at the selected sites and positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gates import depth
from service.gates.depth import Depth
from service.gates.head import Head, Ids, attribution, lens
from service.gates.quantities import QUANTITIES
from service.gates.selection import Selection
from service.gates.step import FORMULAS, Captured
from service.gates.subject import Run, Subject

_CHUNK_BYTES = 32_000_000
"""About how much the states and directions of the positions that are worked on together may take."""


@dataclass(frozen=True, eq=False)
class Look:
    """Where the lens looks: positions (one, 0, for a classifier), their targets (position, n), how many likeliest."""

    positions: tuple[int, ...]
    targets: Ids
    top_k: int


def captured_for(quantities: Sequence[str]) -> tuple[str, ...]:
    """Return the captured quantities that others are computed from."""
    return tuple(sorted({name for quantity in quantities for name in QUANTITIES[quantity].needs}))


def needs_states(quantities: Sequence[str]) -> bool:
    """Say whether directions and the first state are needed."""
    return any(QUANTITIES[name].family != "step" for name in quantities)


def needs_look(quantities: Sequence[str]) -> bool:
    """Say whether the head is needed."""
    return any(QUANTITIES[name].family in ("lens", "attribution") for name in quantities)


def compute(
    subject: Subject, seen: Run, quantities: Sequence[str], selection: Selection, look: Look | None
) -> dict[str, NDArray[Any]]:
    """Return the quantities as float32, or int32 where they count, with the axes that the catalogue says."""
    sites = [site.index for site in selection.sites]
    places = list(selection.positions)
    found: dict[str, NDArray[Any]] = {}
    with np.errstate(all="ignore"):  # what is not finite is counted later
        step = [name for name in quantities if name in FORMULAS]
        of_step = captured(subject, seen, places)
        found |= {name: FORMULAS[name](of_step)[sites] for name in step}
        over = {name for name in quantities if name in depth.FORMULAS or name in depth.STATES}
        if over:
            whole = _over_depth(subject, seen, over, places)
            found |= {name: _of_sites(name, values, sites) for name, values in whole.items()}
        if look is not None:
            head = subject.head
            assert head is not None
            found |= {
                name: _of_sites(name, values, sites)
                for name, values in _with_head(subject, seen, quantities, head, look, places).items()
            }
    kinds = {name: np.int32 if QUANTITIES[name].integer else np.float32 for name in quantities}
    return {name: np.ascontiguousarray(found[name], kinds[name]) for name in quantities}


def captured(subject: Subject, seen: Run, places: Sequence[int] | slice = slice(None)) -> Captured:
    """Return the closed forms of some positions."""
    outputs = {name: stack[:, places] for name, stack in seen.outputs.items()}
    erase = 1.0 if seen.erase is None else seen.erase[:, places]
    write = 1.0 if seen.write is None else seen.write[:, places]
    return Captured(outputs, subject.gates.direction_eps, subject.gates.update_rule, erase, write)


def paths(
    subject: Subject, seen: Run, places: Sequence[int], beta: NDArray[Any] | None = None
) -> Iterator[tuple[slice, Depth]]:
    """Yield the paths of positions, some at a time, with the slice of `places` that they are.

    `beta` (site, position of the run) replaces the gates, for the direct effect of others.
    """
    assert seen.directions is not None
    assert seen.first is not None
    sites, _, width = seen.directions.shape
    channels = seen.first.shape[-1]
    size = max(1, _CHUNK_BYTES // (8 * width * (3 * sites + 3 * channels)))
    for begin in range(0, len(places), size):
        part = slice(begin, min(begin + size, len(places)))
        chosen = list(places[part])
        forms = captured(subject, seen, chosen)
        raw = seen.directions[:, chosen].astype(np.float64)
        length = np.hypot(np.linalg.norm(raw, axis=-1, keepdims=True), subject.gates.direction_eps)
        k = raw / np.maximum(length, np.finfo(np.float64).tiny)
        gate = forms["beta"] if beta is None else np.asarray(beta[:, chosen], np.float64)
        yield (
            part,
            Depth(
                k=np.ascontiguousarray(k.swapaxes(0, 1)),
                erase=(gate * forms.erase).T,
                write=(gate * forms.write).T,
                v=np.ascontiguousarray(forms["v"].swapaxes(0, 1)),
                first=seen.first[chosen].astype(np.float64),
            ),
        )


def final_states(
    subject: Subject, seen: Run, places: Sequence[int], beta: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Return X_S of positions, from the algebra."""
    return np.concatenate([path.final for _, path in paths(subject, seen, places, beta)])


def _over_depth(subject: Subject, seen: Run, names: set[str], places: Sequence[int]) -> dict[str, NDArray[Any]]:
    pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for _, path in paths(subject, seen, places):
        for name in names - set(depth.STATES):
            pieces[name].append(depth.FORMULAS[name](path))
        for name, values in depth.state_quantities(path, names & set(depth.STATES)).items():
            pieces[name].append(values)
    return {name: np.concatenate(parts, axis=QUANTITIES[name].axes.index("position")) for name, parts in pieces.items()}


def _with_head(
    subject: Subject, seen: Run, quantities: Sequence[str], head: Head, look: Look, places: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Compute lens and attribution; of a pooled head, the contributions are those of the selected positions."""
    found: dict[str, NDArray[Any]] = {}
    names = [name for name in quantities if QUANTITIES[name].family == "lens"]
    if names:
        hidden = _hidden(subject, seen, head, look)
        found |= lens(names, head, hidden, seen.logits[list(look.positions)], look.targets, look.top_k)
    if shares := [name for name in quantities if QUANTITIES[name].family == "attribution"]:
        assert seen.directions is not None
        count = seen.directions.shape[1]
        at = list(places) if head.part.pooled else list(look.positions)
        targets = np.repeat(look.targets, len(at), 0) if head.part.pooled else look.targets
        parts = [attribution(shares, head, path, targets[part], count) for part, path in paths(subject, seen, at)]
        found |= {name: np.concatenate([part[name] for part in parts], 1) for name in shares}
    return found


def _hidden(subject: Subject, seen: Run, head: Head, look: Look) -> list[NDArray[np.float64]]:
    """Return what the head reads after each site at the positions of the lens."""
    assert seen.first is not None
    places = range(len(seen.first)) if head.needs_all else look.positions
    per_chunk = []
    for _, path in paths(subject, seen, places):
        states = path.states()
        next(states)
        if head.needs_all:
            per_chunk.append(list(states))
        else:
            per_chunk.append([head.hidden(state) for state in states])
    joined = [np.concatenate(parts) for parts in zip(*per_chunk, strict=True)]
    if not head.needs_all:
        return joined
    read = [head.hidden(states) for states in joined]
    return read if head.part.pooled else [hidden[list(look.positions)] for hidden in read]


def _of_sites(name: str, values: NDArray[Any], sites: Sequence[int]) -> NDArray[Any]:
    """Take the selected sites; the row of the embedding stays in front, and singular values belong to no site."""
    axes = QUANTITIES[name].axes
    if name == "path_sigma" or axes[0] not in ("site", "site+1"):
        return values
    return values[[0, *(site + 1 for site in sites)]] if axes[0] == "site+1" else values[list(sites)]
