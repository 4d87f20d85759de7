"""Load, trace, lower the precision, write, verify: from a checkpoint folder to a bundle folder."""

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ddl_model.training.errors import DataError
from export.depth import HEAD_FILE, describe_depth, expose, has_depth, head_file, torch_depth
from export.golden import write_run, write_steps
from export.kind import MODEL, STEP, Kind, Run, Script
from export.language.bundle import STEPS_FILE
from export.language.chat import with_chat_template
from export.language.weights import save_sharing
from export.manifest import describe_graph, graph_file, made_with, now, training_metrics, value_channels
from export.model_card import model_card, precision_lines
from export.precision_check import Lowering, PrecisionRefused, in_precision, lowered, measure, own_scripts
from export.source import ExportError, open_checkpoint
from export.trace import ExportedGraph
from export.twin import TwinRefused, read_twin
from export.verify import ParityReport, compare
from service.bundle import (
    NAME_PATTERN,
    SCHEMA,
    Golden,
    Graph,
    Manifest,
    Precision,
    PrecisionCost,
    read_bundle,
    write_checksums,
    write_manifest,
)

TOLERANCE = 1e-5
"""For each layer, in float32: each adds its rounding, mostly near 1e-6, and a wrong formula shows at 1e-3 or more."""

REPLAY_FACTOR = 10.0
"""A server may differ from the recorded samples by this much more: other processors sum in another order."""

GOLDEN_FILE = "golden/samples.safetensors"
WEIGHTS_FILE = "graphs/weights.bin"


def export_bundle(
    checkpoint_path: Path,
    bundle: Path,
    *,
    description: str = "",
    tolerance: float | None = None,
    replace: bool = False,
    how: Lowering | None = None,
    twin: Path | None = None,
    chat_template: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ParityReport:
    """Write a checkpoint as the bundle `REPOSITORY/NAME/VERSION`, and hold its graphs to torch on the way.

    The folder appears whole or not at all. Graphs in float32 may differ from torch by `tolerance`, if None by
    `TOLERANCE` for each of the network's layers. `how` tells the precision, float32 if None: others are held to
    what they may cost. The model card shows a `twin` beside the network. A `chat_template` in Jinja2 makes a
    language model one of conversations. Lines about the progress go to `say`.

    Raises:
        ExportError: the bundle's path is not of that form or exists, the network cannot be exported, a graph
            disagrees with torch, low precision costs too much, `twin` is none, or the template cannot be used.
        CheckpointError: the checkpoint cannot be read.
    """
    name = _name(bundle, replace=replace)
    how = how or Lowering()
    say(f"reading {checkpoint_path}")
    kind, weights_sha256 = open_checkpoint(checkpoint_path)
    if chat_template is not None:
        kind = with_chat_template(kind, chat_template)
    try:
        control = None if twin is None else read_twin(twin, kind.checkpoint)
    except TwinRefused as error:
        raise ExportError(str(error)) from error
    for line in kind.lacks():
        say(line)
    allowed = default_tolerance(kind.model.config.layers) if tolerance is None else tolerance
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}-", dir=bundle.parent) as temporary:
        partial = Path(temporary) / bundle.name
        (partial / "graphs").mkdir(parents=True)
        try:
            graphs, described, cost = _make_graphs(partial, kind, how, say)
        except (PrecisionRefused, DataError, RuntimeError, ValueError) as error:
            raise ExportError(f"{error}; no bundle was written") from error
        scripts = in_precision(kind, how.precision).scripts()
        say("comparing torch, plain body and kernel")
        report, scripts, replayed = _verify(partial, kind, graphs, described, scripts, how, allowed)
        if not report.agrees:
            whose = "torch" if how.precision == "float32" else report.reference
            raise ExportError(
                f"the graph does not give {whose}'s numbers; no bundle was written\n\n{report.to_markdown()}"
            )
        gates = kind.gates()
        if gates is not None and how.precision == "float32" and has_depth(kind.model):
            gates = gates.model_copy(update={"depth": describe_depth(kind.model)})
            (partial / HEAD_FILE).write_bytes(head_file(kind.model))
        manifest = Manifest(
            schema=SCHEMA,
            name=name,
            description=description,
            created=now(),
            weights_sha256=weights_sha256,
            task=kind.task(described, replayed),
            graph=described[MODEL],
            gates=gates,
            golden=Golden(file=GOLDEN_FILE, samples=report.samples, tolerance=replayed),
            precision=_precision(partial, kind, how, cost),
            metrics=training_metrics(kind.checkpoint),
            made_with=made_with(),
        )
        remarks = precision_lines(manifest.precision) or _why(allowed, kind.model.config.layers)
        report = dataclasses.replace(report, remarks="\n".join(remarks))
        _write(partial, kind, manifest, report, scripts, model_card(manifest, kind, control))
        read_bundle(partial)
        if bundle.exists():
            shutil.rmtree(bundle)
        partial.rename(bundle)
    return report


def default_tolerance(layers: int) -> float:
    """Return how far float32 may be from torch after so many layers."""
    return TOLERANCE * max(1, layers)


def _name(bundle: Path, *, replace: bool) -> str:
    """Return the model's name, which is that of the folder around the version."""
    name = bundle.resolve().parent.name
    if not bundle.name.isdecimal() or not re.fullmatch(NAME_PATTERN, name):
        raise ExportError(
            f"{bundle} must end in NAME/VERSION: a name of a-z, 0-9, '.', '_', '-', and a number; "
            "for example models/fashion-mnist/1"
        )
    if bundle.exists() and not replace:
        raise ExportError(f"{bundle} exists: choose the next version, or replace it with --force")
    return name


def _make_graphs(
    folder: Path, kind: Kind, how: Lowering, say: Callable[[str], None]
) -> tuple[dict[str, ExportedGraph], dict[str, Graph], PrecisionCost | None]:
    """Trace and save every graph, in low precision if it costs no more than it may."""
    low = how.precision != "float32"
    held_out = kind.held_out(how.evaluate_on, how.limit) if low else None
    say("tracing the graph")
    graphs = lowered(in_precision(kind, how.precision).graphs(), how.precision)
    if not low and has_depth(kind.model):
        expose(graphs[MODEL])
    weights: tuple[str, ...] = ()
    if len(graphs) > 1:
        weights = (WEIGHTS_FILE,)
        place = (folder / WEIGHTS_FILE).parent
        save_sharing(place, {f"{name}.onnx": graph for name, graph in graphs.items()}, Path(WEIGHTS_FILE).name)
    else:
        graphs[MODEL].save(str(folder / graph_file(MODEL)))
    channels = value_channels(kind.model)
    described = {
        name: describe_graph(name, graph, channels, kind.descriptions(), weights) for name, graph in graphs.items()
    }
    if held_out is None:
        return graphs, described, None
    say(f"measuring what {how.precision} costs on {held_out.data}")
    return graphs, described, measure(folder, kind, held_out, how)


def _verify(
    folder: Path,
    kind: Kind,
    graphs: Mapping[str, ExportedGraph],
    described: Mapping[str, Graph],
    scripts: dict[str, Script],
    how: Lowering,
    tolerance: float,
) -> tuple[ParityReport, dict[str, Script], float]:
    """Return the parity report, what is recorded as golden, and the tolerance of whoever replays it."""
    if how.precision == "float32":
        return compare(folder, described, _with_depth(kind, scripts), tolerance), scripts, REPLAY_FACTOR * tolerance
    own, tolerance, other = own_scripts(folder, graphs, scripts, how.precision)
    report = compare(folder, described, own, tolerance)
    report = dataclasses.replace(report, paths=(*report.paths, other), reference="the plain body")
    return report, own, tolerance


def _with_depth(kind: Kind, scripts: Mapping[str, Script]) -> dict[str, Script]:
    """Return scripts that look at directions and first states as well; as golden samples they would be large."""
    model = kind.model
    if not has_depth(model):
        return dict(scripts)
    runs = [
        Run(run.inputs, {**run.outputs, **torch_depth(model, run.inputs[kind.input])}) for run in scripts[MODEL].runs
    ]
    return {**scripts, MODEL: dataclasses.replace(scripts[MODEL], runs=tuple(runs))}


def _precision(folder: Path, kind: Kind, how: Lowering, cost: PrecisionCost | None) -> Precision | None:
    if how.precision == "float32" or cost is None:
        return None
    return Precision(
        kind=how.precision,
        bytes=sum(path.stat().st_size for path in (folder / "graphs").iterdir()),
        float32_bytes=4 * sum(parameter.numel() for parameter in kind.model.parameters()),
        cost=cost,
    )


def _why(tolerance: float, layers: int) -> list[str]:
    """Return the reason of a tolerance that is not the usual one."""
    if tolerance <= TOLERANCE:
        return []
    return [f"{tolerance:g} is allowed: every layer adds its rounding, and there are {layers}."]


def _write(
    folder: Path, kind: Kind, manifest: Manifest, report: ParityReport, scripts: Mapping[str, Script], card: str
) -> None:
    """Write everything of a bundle but its graphs."""
    write_run(folder / GOLDEN_FILE, scripts[MODEL].runs[0])
    if STEP in scripts:
        write_steps(folder / STEPS_FILE, scripts[STEP])
    for name, content in kind.files().items():
        (folder / name).write_bytes(content)
    write_manifest(folder, manifest)
    (folder / "PARITY.md").write_text(report.to_markdown(), encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    write_checksums(folder)
