"""`ddl-export CHECKPOINT BUNDLE`: turn a checkpoint into a bundle that the service runs, or explain one."""

import argparse
import sys
from pathlib import Path

from ddl_model.checkpoint import CheckpointError
from export.explain import explain
from export.pipeline import TOLERANCE, ExportError, export_bundle
from service.errors import ServiceError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="ddl-export",
        description=(
            "Turn a checkpoint into a bundle: manifest, ONNX graph with one fused delta node per rewrite (and its "
            "plain body, for machines without the op library), golden samples, parity report, model card, checksums."
        ),
        epilog=(
            "examples:\n"
            "  ddl-export runs/fashion-mnist models/fashion-mnist/2\n"
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
        default=TOLERANCE,
        help=f"largest difference from torch that the export accepts (default: {TOLERANCE:g})",
    )
    parser.add_argument("--force", action="store_true", help="replace the bundle if it exists")
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
    try:
        report = export_bundle(
            options.checkpoint,
            options.bundle,
            description=options.description,
            tolerance=options.tolerance,
            replace=options.force,
            say=lambda line: print(f"{line} ...", flush=True),
        )
    except (ExportError, CheckpointError) as error:
        print(f"ddl-export: {error}", file=sys.stderr)
        return 1
    print(f"\n{report.to_markdown()}\nWrote {options.bundle}")
    return 0


def _explain(bundle: Path, library: str) -> int:
    try:
        print(explain(bundle, library).to_markdown())
    except ServiceError as error:
        print(f"ddl-export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
