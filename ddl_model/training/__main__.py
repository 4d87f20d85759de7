"""`ddl-train RECIPE`: train a named recipe into a run folder."""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ddl_model.checkpoint import CheckpointError, checkpoint_folders
from ddl_model.config import ResidualConfig, StateConfig
from ddl_model.training import fashion_mnist
from ddl_model.training.image_data import DataError
from ddl_model.training.loop import TrainingError, train
from ddl_model.training.recipes import RECIPES

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    recipes = "\n".join(f"  {name:<15} {(make.__doc__ or '').splitlines()[0]}" for name, make in RECIPES.items())
    parser = argparse.ArgumentParser(
        prog="ddl-train",
        description="Train a delta network. Ctrl-C stops after the current step and loses nothing; --resume continues.",
        epilog=f"recipes:\n{recipes}\n\nthen:\n  ddl-export runs/fashion-mnist models/mine/1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=sorted(RECIPES), metavar="RECIPE", help=f"one of: {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder for checkpoints (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the run folder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set (default: the usual places)")
    parser.add_argument("--epochs", type=int, help="passes over the training set (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation (default: the recipe's)")
    parser.add_argument(
        "--additive",
        action="store_true",
        help="train the additive twin: same everything, x + f(x) instead of the rewrite",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="torch.compile: faster steps after about a minute; auto uses it where a C++ compiler is (default: auto)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 130 interrupted, 1 failed, 2 wrong usage."""
    options = parser().parse_args(arguments)
    config = RECIPES[options.recipe]()
    if options.epochs is not None:
        if options.epochs < 1:
            parser().error(f"--epochs must be at least 1, got {options.epochs}")
        config = replace(config, epochs=options.epochs)
    if options.seed is not None:
        config = replace(config, seed=options.seed)
    if options.additive:
        residual, state = ResidualConfig(rule="additive"), StateConfig(value_channels=1)
        model = replace(config.model, residual=residual, state=state)
        config = replace(config, name=f"{config.name}-additive", model=model)
    if options.threads is not None:
        if options.threads < 1:
            parser().error(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    run = options.out or Path("runs") / config.name
    if not options.resume and checkpoint_folders(run):
        print(
            f"ddl-train: {run} has checkpoints: add --resume to continue, or choose another --out",
            file=sys.stderr,
        )
        return 2
    try:
        outcome = train(
            config,
            fashion_mnist.load(options.data),
            run,
            resume=options.resume,
            compile_model=_decide_compile(options.compile),
            show_progress=not options.quiet,
        )
    except (DataError, TrainingError, CheckpointError) as error:
        print(f"ddl-train: {error}", file=sys.stderr)
        return 1
    if not outcome.finished:
        print(f"\nStopped after step {outcome.steps}; nothing is lost. Continue with the same command and --resume.")
        return INTERRUPTED
    print(
        f"Test accuracy {outcome.test['accuracy']:.2%}, loss {outcome.test['loss']:.4f}. Checkpoint: {outcome.folder}"
    )
    return 0


def _decide_compile(choice: str) -> bool:
    if choice != "auto":
        return choice == "on"
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        print("No C++ compiler found: training without torch.compile, about twice as slow.", file=sys.stderr)
    return compiler is not None


if __name__ == "__main__":
    sys.exit(main())
