"""`ddl-eval CHECKPOINT`: how good a checkpoint is."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddl_model.checkpoint import Checkpoint, CheckpointError, build_model, find_checkpoint, read_checkpoint
from ddl_model.language_model import LanguageModel
from ddl_model.training.errors import DataError
from ddl_model.training.evaluation.generate import Sampling, generate
from ddl_model.training.evaluation.held_out import Question, evaluate_checkpoint
from ddl_model.training.text.tokenizer import end_of_text, parse_tokenizer

_EXAMPLES = """
examples:
  ddl-eval runs/text-4m                                on the text that was held out while training
  ddl-eval runs/text-4m --text essays/                 on other text
  ddl-eval runs/text-4m --prompt "It was" --tokens 60  continue a text
  ddl-eval runs/fashion-mnist --split validation       on images that were held out
  ddl-eval runs/text-4m --tasks lambada_openai         tasks of lm-evaluation-harness (extra lm-eval)
  ddl-eval tests/golden/cc-ec --data TOKENS            a checkpoint of the paper's authors

Loss is in nats per token or image. Bits per byte compare models with different tokenizers.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="ddl-eval",
        description="Evaluate a checkpoint: loss and accuracy; perplexity and bits per byte for text.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder, or run folder: then its newest checkpoint")
    parser.add_argument("--data", type=Path, metavar="DIR", help="images or tokens (default: those of the training)")
    parser.add_argument("--text", nargs="+", default=(), metavar="SOURCE", help="text files, parquet, saved datasets")
    parser.add_argument("--column", default="text", help="field with the text in rows (default: text)")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="of images (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, tokens or examples of a task")
    parser.add_argument("--sequence-length", type=int, metavar="T", help="window of text (default: as in training)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    sample = parser.add_argument_group("samples")
    sample.add_argument("--prompt", help="continue this text instead")
    sample.add_argument("--tokens", type=int, default=100, help="how far (default: 100 tokens)")
    sample.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token (default: 0.8)")
    sample.add_argument("--seed", type=int, default=0, help="another seed, another text (default: 0)")
    harness = parser.add_argument_group("lm-evaluation-harness")
    harness.add_argument("--tasks", type=lambda names: names.split(","), help="task names, separated by commas")
    harness.add_argument("--include-path", type=Path, metavar="DIR", help="folder with tasks of your own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    options = parser().parse_args(arguments)
    for name in ("limit", "sequence_length", "threads", "tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser().error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.prompt is not None:
            print(continue_text(read_checkpoint(options.checkpoint), options))
        elif options.tasks:
            print(json.dumps(_run_tasks(options), indent=2, default=str))
        else:
            _print(_evaluate(options), options.json)
    except (DataError, CheckpointError) as error:
        print(f"ddl-eval: {error}", file=sys.stderr)
        return 1
    return 0


def continue_text(checkpoint: Checkpoint, options: argparse.Namespace) -> str:
    """Return the prompt and what a language model makes of it.

    Raises:
        DataError: the checkpoint is of no language model, or has no tokenizer.
    """
    model = build_model(checkpoint)
    if not isinstance(model, LanguageModel) or not checkpoint.tokenizer:
        raise DataError("only language models with a tokenizer.json beside their weights can continue a text")
    tokenizer = parse_tokenizer(checkpoint.tokenizer, "the checkpoint's tokenizer.json")
    end = end_of_text(tokenizer)
    prompt = [end, *tokenizer.encode(options.prompt, add_special_tokens=False).ids]
    sampling = Sampling(options.temperature, seed=options.seed)
    model = model.eval().to(options.device)
    ids = generate(model, prompt, options.tokens, sampling, lambda generated: generated[-1] == end)
    return str(tokenizer.decode(prompt[1:] + ids))


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    question = Question(
        options.data,
        options.text,
        options.column,
        options.split,
        options.limit,
        options.sequence_length,
        options.device,
    )
    folder = find_checkpoint(options.checkpoint)
    result = evaluate_checkpoint(read_checkpoint(folder), question, show_progress=not options.json)
    return {"checkpoint": str(folder), **result}


def _run_tasks(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from ddl_model.training.evaluation.harness import run_tasks
    except ImportError as error:
        raise DataError(
            f"--tasks needs lm-evaluation-harness: pip install 'deep-delta-serving[lm-eval]' ({error})"
        ) from error
    return dict(run_tasks(options.checkpoint, options.tasks, options.include_path, options.limit, options.device))


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' '):<16} {shown}")


if __name__ == "__main__":
    sys.exit(main())
