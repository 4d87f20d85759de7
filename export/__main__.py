"""`ddl-export CHECKPOINT BUNDLE`: turn a checkpoint into a bundle that the service runs, or explain one."""

import argparse
import sys
from pathlib import Path

from ddl_model.checkpoint import CheckpointError
from export.evaluate import Limits
from export.explain import explain
from export.pipeline import TOLERANCE, export_bundle
from export.precision_check import EVALUATED, PRECISIONS, Lowering
from export.source import ExportError
from service.bundle import read_bundle
from service.errors import ServiceError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="ddl-export",
        description=(
            "Turn a checkpoint into a bundle: manifest, ONNX graphs with one fused delta node per rewrite (and its "
            "plain body, for machines without the op library), golden samples, parity report, model card, checksums. "
            "A language model has two graphs: of whole texts, and of one step with a cache."
        ),
        epilog=(
            "examples:\n"
            "  ddl-export runs/fashion-mnist models/fashion-mnist/2\n"
            "  ddl-export runs/text-4m models/english/1 --precision int8 --evaluate-on essays.txt\n"
            "  ddl-export --explain models/fashion-mnist/2                  which path does each node take here?\n"
            "  ddl-export --explain models/fashion-mnist/2 --library off    and without the op library?"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="checkpoint folder, or a run (its newest)"
    )
    parser.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help="folder to write: REPOSITORY/NAME/VERSION"
    )
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="BUNDLE",
        help="write nothing: run a bundle's golden samples and say per node which path runs, and what it costs",
    )
    parser.add_argument(
        "--library",
        default="auto",
        metavar="LIBRARY",
        help="with --explain: auto (the op library that is built, the default), off, or a path",
    )
    parser.add_argument("--description", default="", help="one sentence for the manifest and the model card")
    parser.add_argument(
        "--tolerance",
        type=float,
        help=f"largest difference from torch that the export accepts (default: {TOLERANCE:g} for each layer)",
    )
    parser.add_argument(
        "--twin",
        type=Path,
        metavar="CHECKPOINT",
        help="a run that differs in its residual rule alone (ddl-train --additive), beside it in the model card",
    )
    parser.add_argument(
        "--chat-template",
        type=Path,
        metavar="FILE",
        help="a language model was trained on conversations: the Jinja2 template that makes prompts of messages",
    )
    parser.add_argument("--force", action="store_true", help="replace the bundle if it exists")
    low = parser.add_argument_group(
        "low precision",
        "The export measures what it costs and writes it into the bundle; a bundle that costs too much is not written.",
    )
    low.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="float16: everything, for NVIDIA cards; int8, int4: weights of matrix products, for CPUs",
    )
    low.add_argument(
        "--evaluate-on",
        type=Path,
        metavar="PATH",
        help="Fashion-MNIST's folder, text, or tokens made by ddl-data (default: the checkpoint's own samples)",
    )
    low.add_argument(
        "--evaluate-limit",
        type=_count,
        default=EVALUATED,
        metavar="N",
        help=f"at most N images or tokens (default: {EVALUATED:,})",
    )
    low.add_argument(
        "--max-loss-increase",
        type=float,
        default=Limits.max_loss_increase,
        metavar="NATS",
        help="how much the loss may rise; without labels, how far answers may diverge (default: %(default)s)",
    )
    low.add_argument(
        "--min-agreement",
        type=float,
        default=Limits.min_agreement,
        metavar="SHARE",
        help="share of most probable answers that must stay the same (default: %(default)s)",
    )
    low.add_argument("--accept-loss", action="store_true", help="write the bundle whatever it costs")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    command_line = parser()
    options = command_line.parse_args(arguments)
    if options.explain is not None:
        if options.checkpoint is not None:
            command_line.error("--explain takes one bundle and no checkpoint")
        return _explain(options.explain, options.library)
    if options.checkpoint is None or options.bundle is None:
        command_line.error("CHECKPOINT and BUNDLE are needed, or --explain BUNDLE")
    if options.precision == "float32" and (options.evaluate_on is not None or options.accept_loss):
        command_line.error("--evaluate-on and --accept-loss are about low precision: choose one with --precision")
    try:
        report = export_bundle(
            options.checkpoint,
            options.bundle,
            description=options.description,
            tolerance=options.tolerance,
            replace=options.force,
            how=Lowering(
                options.precision,
                options.evaluate_on,
                options.evaluate_limit,
                Limits(options.max_loss_increase, options.min_agreement),
                options.accept_loss,
            ),
            twin=options.twin,
            chat_template=options.chat_template,
            say=lambda line: print(f"{line} ...", flush=True),
        )
    except (ExportError, CheckpointError) as error:
        print(f"ddl-export: {error}", file=sys.stderr)
        return 1
    print(f"\n{report.to_markdown()}\nWrote {options.bundle}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _explain(bundle: Path, library: str) -> int:
    try:
        for graph in read_bundle(bundle).manifest.graphs:
            print(explain(bundle, library, graph=graph).to_markdown())
    except ServiceError as error:
        print(f"ddl-export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
