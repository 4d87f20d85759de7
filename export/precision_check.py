"""Lower the precision of a bundle: what it costs, whether that is allowed, and what to hold the bundle to.

Torch is no measure of such a bundle to the last digit, so its golden samples are its own answers, by the plain bodies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from export.evaluate import Limits, evaluate
from export.kind import MODEL, HeldOut, Kind, Script
from export.manifest import graph_file
from export.precision import BITS, leave_activations, quantise
from export.trace import ExportedGraph
from export.verify import PLAIN, PathDifference, answer, differences, expecting
from service.bundle import PrecisionCost
from service.runtime.session import CPU, OrtSession

PrecisionName = Literal["float32", "float16", "int8", "int4"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)

EVALUATED = 10_000
"""Images or tokens that are measured by default."""

SPREAD_FACTOR = 2.0
"""How much further than the other way of computing that can be tried here another machine may be from this one."""

LEAST_TOLERANCE = 1e-3
"""Where both ways agree by chance, rounding of one number in a few hundred still shows in the third digit."""


class PrecisionRefused(Exception):
    """A bundle of low precision would lose too much; the message has the figures."""


@dataclass(frozen=True)
class Lowering:
    """The precision of a bundle and what it may cost, measured on at most `limit` images or tokens.

    They are read from `evaluate_on`, or are the checkpoint's own samples. With `accept_loss` the limits are not held.
    """

    precision: PrecisionName = "float32"
    evaluate_on: Path | None = None
    limit: int = EVALUATED
    limits: Limits = field(default_factory=Limits)
    accept_loss: bool = False


def in_precision(kind: Kind, precision: PrecisionName) -> Kind:
    """Return the network as it is traced: in float16 itself, else in float32."""
    return kind.in_half() if precision == "float16" else kind


def lowered(graphs: dict[str, ExportedGraph], precision: PrecisionName) -> dict[str, ExportedGraph]:
    """Return graphs as they are saved: quantised, where the precision is one of integers."""
    if precision not in BITS:
        return graphs
    return {name: quantise(graph, BITS[precision]) for name, graph in graphs.items()}


def measure(folder: Path, kind: Kind, held_out: HeldOut, how: Lowering) -> PrecisionCost:
    """Return what the saved graph of whole inputs loses against the network in float32.

    Raises:
        PrecisionRefused: that is more than the limits allow, or it answers with what is not a number.
    """
    session = OrtSession(folder / graph_file(MODEL), providers=[CPU], threads=1, kernel=PLAIN)
    cost = evaluate(session, kind, held_out)
    if cost is None:
        raise PrecisionRefused(
            f"in {how.precision} it answers with values that are not finite: its weights or its state do not fit into "
            "this type. Take another --precision"
        )
    if (excess := how.limits.excess(cost)) and not how.accept_loss:
        raise PrecisionRefused(
            f"{how.precision} costs too much: {excess}. Measured on {cost.data}. Take a higher precision, move the "
            "limits, or accept it with --accept-loss"
        )
    return cost


def own_scripts(
    folder: Path, graphs: Mapping[str, ExportedGraph], scripts: Mapping[str, Script], precision: PrecisionName
) -> tuple[dict[str, Script], float, PathDifference]:
    """Return scripts that expect what the saved graphs answer here, the tolerance, and another way of computing.

    Other processors compute in another way: in float16 they round in other places, and not all have kernels for
    activations of 8 bits. Both can be tried here, as torch in float16 and without rounding activations, and tell how
    far answers of the same bundle may be apart.
    """
    own = {name: answer(folder / graph_file(name), script) for name, script in scripts.items()}
    expected = {name: expecting(script, own[name]) for name, script in scripts.items()}
    if precision == "float16":
        other = PathDifference("torch (float16)", "rounds after every operation", differences(own, scripts))
    else:
        answers = {}
        for name, graph in graphs.items():
            leave_activations(graph)
            path = folder / graph_file(f"{name}-float-activations")
            graph.save(str(path))
            answers[name] = answer(path, scripts[name])
            path.unlink()
        found = differences(answers, expected)
        other = PathDifference("float activations", "for processors without kernels for 8-bit activations", found)
    tolerance = max(LEAST_TOLERANCE, SPREAD_FACTOR * max(other.differences.values()))
    return expected, tolerance, other
