"""`ddl-study NAME`: run a study again, and write its numbers and its picture."""

import argparse
import json
import os
import platform
import re
import shlex
import sys
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ddl_model.studies.dynamics import QUICK, Plan, StudyError, all_jobs, run_jobs
from ddl_model.studies.dynamics_report import DrawingError, draw_picture, require_matplotlib, tables

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""

_DOCUMENTED = Path("docs/studies"), Path("docs/images/dynamics.png")
_OTHERS = Path("runs/studies"), Path("runs/studies/dynamics.png")

_EPILOG = """\
what it asks:
  Every layer of a network is told to flip, reflect or overwrite one direction of the state. Can a network follow
  whose layers rewrite the state (delta), add to it, mix it (highway gate), or write without erasing? The layer is
  shared along depth: trained at depths 1 to 8, tested up to 32.

examples:
  ddl-study dynamics --quick          does everything run? half a minute; the numbers mean nothing
  ddl-study dynamics                  all of docs/non_monotonic_dynamics.md again, about a quarter of an hour
  ddl-study dynamics --redraw         tables and picture again from the numbers in --out
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="ddl-study", description="Run a study of delta networks again.")
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    dynamics = studies.add_parser(
        "dynamics",
        help="non-monotonic dynamics along depth: delta networks beside additive ones",
        description="Train small networks on tasks with a known answer; tables, dynamics.json and a picture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    dynamics.add_argument("--seeds", type=int, metavar="N", help=f"networks per arm and task (default: {Plan.seeds})")
    dynamics.add_argument("--steps", type=int, metavar="N", help=f"steps of training (default: {Plan.steps})")
    dynamics.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"for dynamics.json (default: {_DOCUMENTED[0]}; {_OTHERS[0]} where the plan is not the documented one)",
    )
    dynamics.add_argument(
        "--image", type=Path, metavar="PNG", help=f"the picture (default: {_DOCUMENTED[1]}, or {_OTHERS[1]})"
    )
    dynamics.add_argument("--no-image", action="store_true", help="draw no picture: needs no matplotlib")
    dynamics.add_argument("--quick", action="store_true", help="tiny runs, to see that all works")
    dynamics.add_argument("--redraw", action="store_true", help="train nothing: read dynamics.json and report it again")
    dynamics.add_argument("--jobs", type=int, metavar="N", help="processes, one thread each (default: one per core)")
    dynamics.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 130 interrupted, 1 failed, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    for name in ("seeds", "steps", "jobs"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser().error(f"--{name} must be at least 1, got {value}")
    plan = QUICK if options.quick else Plan()
    plan = replace(plan, seeds=options.seeds or plan.seeds, steps=options.steps or plan.steps)
    out, image = _DOCUMENTED if plan == Plan() else _OTHERS
    out, image = options.out or out, options.image or image
    try:
        if not options.no_image:
            require_matplotlib()  # before the training, not after it
        study = _read(out) if options.redraw else _run(plan, options, arguments)
        if not options.redraw:
            out.mkdir(parents=True, exist_ok=True)
            (out / "dynamics.json").write_text(_one_line_each(study), encoding="utf-8")
        layers = study["plan"]["layers"]
        print(tables(study["results"], layers))
        if not options.no_image:
            draw_picture(study["results"], layers, image)
    except (StudyError, DrawingError, OSError) as error:
        print(f"ddl-study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing was written. A study is not resumed: it starts again.", file=sys.stderr)
        return INTERRUPTED
    written = [] if options.redraw else [out / "dynamics.json"]
    print("\nWritten:", *written, *([] if options.no_image else [image]))
    return 0


def _run(plan: Plan, options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    jobs, start = all_jobs(), time.monotonic()
    finished = run_jobs(jobs, plan, options.jobs or os.cpu_count() or 1)
    results = list(tqdm(finished, "arms trained and tested", len(jobs), disable=options.quiet, smoothing=0))
    about = {
        "command": shlex.join(["ddl-study", *arguments]),
        "date": date.today().isoformat(),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "processor_minutes": round(sum(os.times()[:4]) / 60, 1),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
    order = sorted(results, key=lambda result: (result["task"], result["arm"]))
    return {"about": about, "plan": asdict(plan), "results": order}


def _one_line_each(study: dict[str, Any]) -> str:
    """Return the study as JSON with a line for each result: short enough to look at, and to compare."""
    head = json.dumps({name: study[name] for name in ("about", "plan")}, indent=1)
    results = ",\n  ".join(json.dumps(result, allow_nan=False) for result in study["results"])
    return f'{head[:-2]},\n "results": [\n  {results}\n ]\n}}\n'


def _read(out: Path) -> dict[str, Any]:
    """Read the numbers of an earlier run.

    Raises:
        StudyError: there are none.
    """
    path = out / "dynamics.json"
    if not path.exists():
        raise StudyError(f"{path} does not exist: run without --redraw first, or name its folder with --out")
    study: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return study


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE) if information.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
