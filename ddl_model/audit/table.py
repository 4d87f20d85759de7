"""All numbers of an audit as one long table; the report shows nothing that is not in it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ddl_model.audit.bins import AUDITED, REGIME_BINS, REGIMES
from ddl_model.audit.measure import Measured
from ddl_model.audit.plan import Run

ALL = "all"
"""In place of a site: all of them together."""
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


@dataclass(frozen=True)
class Row:
    """One number: `statistic` of `quantity` at `site`, over `n` values."""

    run: str
    arm: str
    seed: int | None
    site: str
    layer: int | None
    sublayer: str | None
    quantity: str
    statistic: str
    value: float | None
    n: int


class Table:
    """Rows, and a quick way to one of them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Index the rows by run, quantity, statistic and site."""
        self.rows = list(rows)
        self._found = {(row.run, row.quantity, row.statistic, row.site): row for row in self.rows}

    def value(self, run: str, quantity: str, statistic: str = "mean", site: str = ALL) -> float | None:
        """Return a number, or None where the run has none."""
        row = self._found.get((run, quantity, statistic, site))
        return None if row is None else row.value

    def statistics(self, run: str, quantity: str) -> list[str]:
        """Return which statistics of a quantity there are over all sites, in their order."""
        return [row.statistic for row in self.rows if (row.run, row.quantity, row.site) == (run, quantity, ALL)]


def rows_of(run: Run, measured: Measured) -> Iterator[Row]:
    """Yield every number of a run."""

    def row(quantity: str, statistic: str, value: float, n: int, site: str = ALL) -> Row:
        layer, _, sublayer = site.partition(".")
        kept = value if math.isfinite(value) else None
        return Row(
            run.label,
            run.arm,
            run.seed,
            site,
            int(layer) if sublayer else None,
            sublayer or None,
            quantity,
            statistic,
            kept,
            n,
        )

    losses = measured.losses
    yield row("loss", "mean", float(losses.mean()), len(losses))
    yield row("loss", "sd", float(losses.std()) if len(losses) > 1 else math.nan, len(losses))
    yield row("accuracy", "mean", measured.correct, len(losses))
    for name, changed in measured.interventions.items():
        change = changed - losses[: len(changed)]
        yield row("loss_change", name, float(change.mean()), len(change))
    for name, histogram in measured.histograms.items():
        sums = measured.sums[name]
        sites = measured.sites if len(histogram) == len(measured.sites) and name != "embedding_kept" else ()
        for index, site in enumerate(sites):
            yield from (row(name, *found, site) for found in _describe(name, histogram[index], sums[index]))
        yield from (row(name, *found) for found in _describe(name, histogram.sum(0), sums.sum(0)))
        yield row(name, "nonfinite", measured.nonfinite[name], measured.nonfinite[name])
    if {"e_pre_norm", "e_post_norm"} <= measured.sums.keys():
        before, after = (measured.sums[name].sum(0) for name in ("e_pre_norm", "e_post_norm"))
        ratio = float(after[1] / before[1]) if before[1] else math.nan
        yield row("e_post_norm", "ratio_to_e_pre_norm", ratio, int(before[0]))


def write_table(path: Path, table: Table) -> None:
    """Write the rows as Parquet."""
    columns = {field.name: [getattr(row, field.name) for row in table.rows] for field in fields(Row)}
    types = {"seed": pa.int64(), "layer": pa.int32(), "value": pa.float64(), "n": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    pq.write_table(pa.table(columns, schema), path, compression="zstd")


def write_histograms(path: Path, measured: Sequence[tuple[Run, Measured]]) -> None:
    """Write run, site, quantity, edges of the bin and count as Parquet; empty bins are left out."""
    columns: dict[str, list[Any]] = {name: [] for name in ("run", "site", "quantity", "low", "high", "count")}
    for run, found in measured:
        for name, histogram in found.histograms.items():
            edges = AUDITED[name].edges().tolist()
            sites = found.sites if len(histogram) == len(found.sites) and name != "embedding_kept" else (ALL,)
            for site, bin_ in torch.nonzero(histogram).tolist():
                values = (run.label, sites[site], name, edges[bin_], edges[bin_ + 1], int(histogram[site, bin_]))
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    types = {"low": pa.float64(), "high": pa.float64(), "count": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    pq.write_table(pa.table(columns, schema), path, compression="zstd")


def _describe(name: str, histogram: Tensor, sums: Tensor) -> Iterator[tuple[str, float, int]]:
    count, total, squares = sums.tolist()
    n = int(count)
    if not n:
        return
    mean = total / count
    yield "mean", mean, n
    yield "sd", math.sqrt(max(0.0, squares / count - mean**2)), n
    for statistic, q in QUANTILES.items():
        yield statistic, AUDITED[name].quantile(histogram, q), n
    if name == "beta":
        for regime, part in zip(REGIMES, histogram.tensor_split(REGIME_BINS), strict=True):
            yield regime, int(part.sum()) / n, n
