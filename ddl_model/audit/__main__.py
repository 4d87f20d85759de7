"""`ddl-audit`: what the gates of checkpoints do on a data set, with a report and references for live traffic."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from ddl_model.audit.data import DEFAULT_LENGTH, open_data
from ddl_model.audit.errors import AuditError
from ddl_model.audit.measure import count_sequences
from ddl_model.audit.plan import read_runs
from ddl_model.audit.run import INTERVENTIONS, is_measured, measure_all, write_audit
from ddl_model.checkpoint import CheckpointError
from ddl_model.training.errors import DataError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

_EPILOG = """\
writes into --out:
  report.html           for people: no script, nothing to load, aggregates alone
  table.parquet         every number of it: run, arm, seed, site, quantity, statistic, value, n
  histograms.parquet    of every quantity, by run and site
  reference-RUN.json    what the service compares live traffic with: python -m export.reference BUNDLE FILE
  audit.json            what was run, and the comparisons
  runs/                 finished runs: an audit that was stopped goes on from here

examples:
  ddl-audit runs/text-4m --data data/english-8k --out audits/text-4m
  ddl-audit delta=runs/d0 delta=runs/d1 write-only=runs/w0 write-only=runs/w1 --out audits/arms
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="ddl-audit",
        description="Audit the gates of checkpoints on held-out data.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="[ARM=]RUN", help="run or checkpoint; the arm is its residual rule")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="tokens or images (default: what the first was trained on)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the audit")
    parser.add_argument("--sequences", type=int, default=2000, metavar="N", help="most texts or images (default: 2000)")
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help=f"tokens of a text (default: those of the training, or {DEFAULT_LENGTH})",
    )
    parser.add_argument(
        "--interventions",
        default=",".join(INTERVENTIONS),
        metavar="LIST",
        help=f"some of {', '.join(INTERVENTIONS)}, separated by commas, or none (default: all)",
    )
    parser.add_argument(
        "--sample", type=int, default=64, metavar="N", help="sequences for each intervention (default: 64)"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the report (default: the folder's name)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 130 interrupted, 1 failed, 2 wrong usage."""
    options = parser().parse_args(arguments)
    for name in ("sequences", "length", "sample"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser().error(f"--{name} must be at least 1, got {value}")
    try:
        return _audit(options)
    except (AuditError, CheckpointError, DataError, OSError) as error:
        print(f"ddl-audit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Finished runs are kept: the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED


def _audit(options: argparse.Namespace) -> int:
    words = options.interventions.split(",")
    wanted = () if words == ["none"] else tuple(word.strip() for word in words)
    if unknown := [word for word in wanted if word not in INTERVENTIONS]:
        raise AuditError(f"there is no intervention {unknown[0]!r}; there are {', '.join(INTERVENTIONS)}")
    runs = read_runs(options.runs)
    data = open_data(runs, options.data, options.sequences, options.length)
    left = [run for run in runs if not is_measured(run, data, options.out, wanted, options.sample)]
    if len(left) < len(runs):
        print(f"{len(runs) - len(left)} of {len(runs)} runs are finished already.", file=sys.stderr)
    total = sum(count_sequences(run, data, wanted, options.sample) for run in left)
    with tqdm(total=total, desc="sequences", disable=options.quiet, smoothing=0) as bar:
        measured = measure_all(runs, data, options.out, wanted, options.sample, lambda n: _advance(bar, n))
    options.out.mkdir(parents=True, exist_ok=True)
    title = options.title or f"Audit {options.out.resolve().name}"
    audit = write_audit(
        runs, measured, data, options.out, title, options.sample, lambda text: print(text, file=sys.stderr)
    )
    for pair in audit.comparisons:
        mean = "" if pair.mean is None else f"{pair.mean:+.4f} nats per {data.unit}; "
        print(f"{pair.first} - {pair.second}: {mean}{pair.verdict}")
    print(f"Written: {options.out / 'report.html'}")
    return 0


def _advance(bar: "tqdm[NoReturn]", count: int) -> None:
    bar.update(count)


if __name__ == "__main__":
    sys.exit(main())
