"""Load, export, write, verify: from a checkpoint folder to a bundle folder."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ddl_model.checkpoint import WEIGHTS_NAME, build_model, find_checkpoint, read_checkpoint
from ddl_model.image_classifier import ImageClassifier
from export.golden import sample_pixels, write_golden
from export.graph import PIXELS, export_graph, unsupported
from export.manifest import GOLDEN_FILE, make_manifest
from export.model_card import model_card
from export.verify import ParityReport, compare, torch_outputs
from service.bundle import NAME_PATTERN, file_sha256, read_bundle, write_checksums, write_manifest

TOLERANCE = 1e-5
"""Float32 through a handful of layers: differences stay near 1e-6, and a wrong formula shows at 1e-3 or more."""

REPLAY_FACTOR = 10.0
"""A server may differ from the recorded samples by this much more: other processors sum in another order."""


class ExportError(Exception):
    """A bundle cannot be written; the message says why and what to do."""


def export_bundle(
    checkpoint_path: Path,
    bundle: Path,
    *,
    description: str = "",
    tolerance: float = TOLERANCE,
    replace: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> ParityReport:
    """Write a checkpoint as the bundle `REPOSITORY/NAME/VERSION`, and hold its graph to torch on the way.

    The folder appears whole or not at all. Lines about the progress go to `say`.

    Raises:
        ExportError: the bundle's path is not of that form or exists, the network cannot be exported, or the graph
            disagrees with torch.
        CheckpointError: the checkpoint cannot be read.
    """
    name = bundle.resolve().parent.name
    if not bundle.name.isdecimal() or not re.fullmatch(NAME_PATTERN, name):
        raise ExportError(
            f"{bundle} must end in NAME/VERSION: a name of a-z, 0-9, '.', '_', '-', and a number; "
            "for example models/fashion-mnist/1"
        )
    if bundle.exists() and not replace:
        raise ExportError(f"{bundle} exists: choose the next version, or replace it with --force")
    say(f"reading {checkpoint_path}")
    folder = find_checkpoint(checkpoint_path)
    checkpoint = read_checkpoint(folder)
    model = build_model(checkpoint).eval()
    if not isinstance(model, ImageClassifier):
        raise ExportError(f"{folder} holds a {type(model).__name__}: only image classifiers can be exported")
    if reason := unsupported(model.config):
        raise ExportError(f"{folder}: {reason}")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}-", dir=bundle.parent) as temporary:
        partial = Path(temporary) / bundle.name
        (partial / "graphs").mkdir(parents=True)
        say("tracing the graph")
        graph = export_graph(model)
        pixels = sample_pixels(model.config, checkpoint.samples)
        expected = torch_outputs(model, pixels)
        manifest = make_manifest(
            name,
            description,
            model,
            checkpoint,
            graph,
            file_sha256(folder / WEIGHTS_NAME),
            len(pixels),
            REPLAY_FACTOR * tolerance,
        )
        graph.save(str(partial / manifest.graph.file))
        write_golden(partial / GOLDEN_FILE, {PIXELS: pixels}, expected)
        say("comparing torch, plain body and kernel")
        report = compare(partial / manifest.graph.file, pixels, expected, manifest.graph.custom_ops, tolerance)
        if not report.agrees:
            raise ExportError(
                f"the graph does not give torch's numbers; no bundle was written\n\n{report.to_markdown()}"
            )
        write_manifest(partial, manifest)
        (partial / "PARITY.md").write_text(report.to_markdown(), encoding="utf-8")
        (partial / "MODEL_CARD.md").write_text(model_card(manifest, model.config, checkpoint), encoding="utf-8")
        write_checksums(partial)
        read_bundle(partial)
        if bundle.exists():
            shutil.rmtree(bundle)
        partial.rename(bundle)
    return report
