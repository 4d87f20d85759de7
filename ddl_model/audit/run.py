"""A whole audit: every run measured or taken from before, then tables, references and the report."""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import torch

from ddl_model.audit.data import DataSet
from ddl_model.audit.measure import Measured, Progress, measure_run
from ddl_model.audit.plan import Run
from ddl_model.audit.reference import make_reference, reference_windows, write_reference
from ddl_model.audit.report import Audit, render
from ddl_model.audit.statistics import Paired, compare_arms
from ddl_model.audit.store import fingerprint, load_measured, save_measured
from ddl_model.audit.table import Table, rows_of, write_histograms, write_table

SCHEMA = "ddl.audit/1"
INTERVENTIONS = ("all=0", "all=1", "clamp<=1", "site_mean", "drop_erase", "per_site=0")


def measure_all(
    runs: list[Run], data: DataSet, out: Path, wanted: tuple[str, ...], sample: int, told: Progress
) -> list[Measured]:
    """Measure what is not in `out` already; each run is written as soon as it is done."""
    found = []
    for run in runs:
        path, key = out / "runs" / f"{run.label}.safetensors", fingerprint(run, data, wanted, sample)
        measured = load_measured(path, key)
        if measured is None:
            measured = measure_run(run, data, wanted, sample, told)
            save_measured(path, key, measured)
        found.append(measured)
    return found


def is_measured(run: Run, data: DataSet, out: Path, wanted: tuple[str, ...], sample: int) -> bool:
    """Tell whether a run is in `out` already, made of the same things."""
    path = out / "runs" / f"{run.label}.safetensors"
    return load_measured(path, fingerprint(run, data, wanted, sample)) is not None


def compare(runs: list[Run], table: Table) -> list[Paired]:
    """Compare the losses of every two arms, paired by seed."""
    by_arm: dict[str, dict[int, float]] = {}
    for run in runs:
        losses = by_arm.setdefault(run.arm, {})
        loss = table.value(run.label, "loss")
        if run.seed is not None and loss is not None:
            losses[run.seed] = loss
    return [compare_arms(one, other, by_arm[one], by_arm[other]) for one, other in combinations(by_arm, 2)]


def write_audit(
    runs: list[Run],
    measured: list[Measured],
    data: DataSet,
    out: Path,
    title: str,
    sample: int,
    say: Callable[[str], None],
) -> Audit:
    """Write table.parquet, histograms.parquet, reference-RUN.json, report.html and, last, audit.json."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    table = Table([row for run, found in zip(runs, measured, strict=True) for row in rows_of(run, found)])
    audit = Audit(
        title,
        created,
        data.name,
        data.sha256,
        len(data),
        min(sample, len(data)),
        data.unit,
        f"torch {torch.__version__}, Python {platform.python_version()}",
        runs,
        {run.label: found.sites for run, found in zip(runs, measured, strict=True)},
        table,
        compare(runs, table),
    )
    write_table(out / "table.parquet", table)
    write_histograms(out / "histograms.parquet", list(zip(runs, measured, strict=True)))
    _write_references(runs, measured, data, out, created, say)
    (out / "report.html").write_text(render(audit), encoding="utf-8")
    summary = {
        "title": title,
        "created": created,
        "dataset": data.name,
        "arms": list(audit.arms),
        "runs": len(runs),
        "settled": audit.is_settled,
    }
    about = [
        {"label": run.label, "arm": run.arm, "seed": run.seed, "rule": run.rule, "weights_sha256": run.weights_sha256}
        for run in runs
    ]
    compared = [{**asdict(pair), "settled": pair.is_settled, "verdict": pair.verdict} for pair in audit.comparisons]
    content = {"schema": SCHEMA, "summary": summary, "runs": about, "comparisons": compared}
    (out / "audit.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return audit


def _write_references(
    runs: list[Run], measured: list[Measured], data: DataSet, out: Path, created: str, say: Callable[[str], None]
) -> None:
    if not reference_windows(len(data)):
        say(f"No reference is written: {len(data)} sequences are too few, 100 are needed.")
        return
    for run, found in zip(runs, measured, strict=True):
        if found.beta_counts is None:
            continue
        content = make_reference(
            found.beta_counts.numpy(),
            found.sites,
            name=run.label,
            created=created,
            weights=run.weights_sha256,
            data=(data.name, data.sha256),
        )
        write_reference(out / f"reference-{run.label}.json", content)
