"""The report of an audit: one HTML file of aggregates, without scripts and without anything to load."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from statistics import mean, stdev

from ddl_model.audit.bins import REGIMES
from ddl_model.audit.plan import Run
from ddl_model.audit.statistics import ENOUGH_SEEDS, Paired
from ddl_model.audit.style import STYLE
from ddl_model.audit.svg import bands, pairs, stacked_bars
from ddl_model.audit.table import Table


@dataclass(frozen=True)
class Audit:
    """All that a report tells."""

    title: str
    created: str
    dataset: str
    dataset_sha256: str
    sequences: int
    sample: int
    unit: str
    versions: str
    runs: Sequence[Run]
    sites: dict[str, tuple[str, ...]]
    table: Table
    comparisons: Sequence[Paired]

    @property
    def arms(self) -> dict[str, list[Run]]:
        """The runs of each arm, in the order given."""
        arms: dict[str, list[Run]] = {}
        for run in self.runs:
            arms.setdefault(run.arm, []).append(run)
        return arms

    @property
    def is_settled(self) -> bool | None:
        """Whether every comparison is settled; None where nothing is compared."""
        return all(pair.is_settled for pair in self.comparisons) if self.comparisons else None


def render(audit: Audit) -> str:
    """Return the HTML."""
    tables = [partial(_of_delta_networks, *table) for table in (_DISCREPANCY, _ERASE_AND_WRITE, _PATH)]
    sections: list[Callable[[Audit], str]] = [_what, _loss, _regimes, _beta, *tables, _interventions, _warnings]
    body = "".join(section(audit) for section in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(audit.title)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{escape(audit.title)}</h1>{body}</main></body></html>\n"
    )


def _what(audit: Audit) -> str:
    rows = [
        [run.label, run.arm, _integer(run.seed), run.rule, run.weights_sha256[:16], str(run.config.layers)]
        for run in audit.runs
    ]
    facts = (
        f"<p>{audit.sequences} sequences of {escape(audit.dataset)} (SHA-256 {audit.dataset_sha256[:16]}), the same "
        f"for every run, in float32. Made {escape(audit.created)} with {escape(audit.versions)}.</p>"
    )
    return _section(
        "1. What was run", facts + _table(["run", "arm", "seed", "residual rule", "weights, SHA-256", "layers"], rows)
    )


def _loss(audit: Audit) -> str:
    rows = []
    for arm, runs in audit.arms.items():
        losses = [_number(audit, run, "loss") for run in runs]
        found = [loss for loss in losses if loss is not None]
        spread = _short(stdev(found)) if len(found) > 1 else "one run"
        accuracy = mean(_number(audit, run, "accuracy") or 0.0 for run in runs)
        rows.append([arm, str(len(runs)), _short(mean(found) if found else None), spread, _short(accuracy)])
    parts = [_table(["arm", "runs", f"loss, nats per {audit.unit}", "sd over runs", "accuracy"], rows)]
    if len(audit.arms) > 1:
        seeds = sorted({run.seed for run in audit.runs if run.seed is not None})
        of_seed = {(run.arm, run.seed): _number(audit, run, "loss") for run in audit.runs}
        lines = [(f"seed {seed}", [of_seed.get((arm, seed)) for arm in audit.arms]) for seed in seeds]
        parts.append(pairs(lines, list(audit.arms), "Loss of each seed, arm by arm"))
    compared = [
        [
            f"{pair.first} - {pair.second}",
            " ".join(f"{difference:+.4f}" for difference in pair.differences),
            _signed(pair.mean),
            "none" if pair.interval is None else f"{pair.interval[0]:+.4f} to {pair.interval[1]:+.4f}",
            _short(pair.t),
            _short(pair.p),
            pair.verdict,
        ]
        for pair in audit.comparisons
    ]
    if compared:
        head = ["difference", "by seed", "mean", "95 % interval", "paired t", "p", "verdict"]
        parts.append(_table(head, compared))
        parts.append(
            f"<p>Runs of one seed are pairs. A seed is the replicate, a token is not. Settled means at least "
            f"{ENOUGH_SEEDS} pairs and p below 0.05; everything else is not settled, whichever way it points.</p>"
        )
    else:
        parts.append("<p>One arm: nothing is compared.</p>")
    return _section("2. Loss", "".join(parts))


def _regimes(audit: Audit) -> str:
    rows = [
        (_named(run), [_number(audit, run, "beta", regime) or 0.0 for regime in REGIMES])
        for run in audit.runs
        if _number(audit, run, "beta") is not None
    ]
    if not rows:
        return _section("3. Regimes of the gate", "<p>No run has gates.</p>")
    words = (
        "<p>Part of all gates that skip (beta below 0.25), change a part, overwrite (0.75 to 1.25) or go over (above "
        "1.25). In a write-only network the gate is a plain write strength: its regimes erase nothing.</p>"
    )
    return _section("3. Regimes of the gate", words + stacked_bars(rows, REGIMES, "Regimes of each run"))


def _beta(audit: Audit) -> str:
    figures = []
    for run in audit.runs:
        if _number(audit, run, "beta") is None:
            continue
        drawing = bands(
            [(site, _band(audit, run, "beta", site)) for site in audit.sites[run.label]],
            0.0,
            2.0,
            {0.0: "0", 0.5: "0.5", 1.0: "1", 1.5: "1.5", 2.0: "2"},
            f"Gates of {run.label} by site",
        )
        figures.append(f"<figure><figcaption>{escape(_named(run))}</figcaption>{drawing}</figure>")
    words = (
        "<p>5 % to 95 % of the tokens, and the median. Sites of different seeds are not the same thing: two "
        "networks need not put the same work at the same depth. Compare sites of one run, or of a network and its "
        "parent.</p>"
    )
    return _section("4. The gate by site", words + "".join(figures) if figures else "<p>No run has gates.</p>")


_DISCREPANCY = (
    "5. Discrepancy: what the state holds and what the network wants",
    (
        ("e_pre, median", "e_pre_norm", "q50"),
        ("e_post, median", "e_post_norm", "q50"),
        ("sum of e_post / sum of e_pre", "e_post_norm", "ratio_to_e_pre_norm"),
        ("tokens with |1 - beta| < 0.25", "beta", "match"),
    ),
)
_ERASE_AND_WRITE = (
    "6. Erasing and writing",
    (
        ("erased, median", "erase_norm", "q50"),
        ("written, median", "write_norm", "q50"),
        ("balance, mean", "balance", "mean"),
        ("update / state, median", "update_ratio", "q50"),
    ),
)
_PATH = (
    "7. Along the path: what is left at the end",
    (
        ("survival of a write, 5 %", "survival", "q05"),
        ("median", "survival", "q50"),
        ("embedding kept, median", "embedding_kept", "q50"),
    ),
)


def _of_delta_networks(title: str, columns: Sequence[tuple[str, str, str]], audit: Audit) -> str:
    """Return a section with a row for each delta network; a column has a heading, a quantity and a statistic of it."""
    rows = [
        [_named(run), *(_of(audit, run, quantity, statistic) for _, quantity, statistic in columns)]
        for run in audit.runs
        if run.rule == "delta"
    ]
    head = ["run", *(heading for heading, _, _ in columns)]
    return _section(title, _table(head, rows) if rows else "<p>No delta network was run.</p>")


def _interventions(audit: Audit) -> str:
    parts = []
    for run in audit.runs:
        found = {
            name: _number(audit, run, "loss_change", name) for name in audit.table.statistics(run.label, "loss_change")
        }
        if not found:
            continue
        general = {
            name: change for name, change in found.items() if name.partition("=")[0] not in audit.sites[run.label]
        }
        sites = {name: change for name, change in found.items() if name not in general}
        cells = [[name, _signed(change)] for name, change in general.items()]
        strongest = sorted(sites.items(), key=lambda item: -(item[1] if item[1] is not None else -math.inf))
        cells += [[name, _signed(change)] for name, change in strongest]
        table = _table(["intervention", "change of the loss"], cells)
        parts.append(f"<details><summary>{escape(_named(run))}</summary>{table}</details>")
    words = (
        f"<p>Mean over the first {audit.sample} sequences, nats per {audit.unit}; single sites by their effect. "
        "Dropping the erasure of a trained network is an ablation; the write-only network was trained without.</p>"
    )
    return _section("8. Interventions", words + "".join(parts) if parts else "<p>None.</p>")


def _warnings(audit: Audit) -> str:
    found = []
    for row in audit.table.rows:
        if row.statistic == "nonfinite" and row.value:
            found.append(f"{row.run}: {int(row.value)} values of {row.quantity} are not finite; they are left out.")
    for pair in audit.comparisons:
        if not pair.is_settled:
            found.append(f"{pair.first} and {pair.second}: {pair.verdict}.")
    found += [f"{run.label} does not name its seed: it is in no pair." for run in audit.runs if run.seed is None]
    rules = {run.rule for run in audit.runs}
    if rules - {"delta"}:
        found.append("Sections 5 to 7 show delta networks alone: the other rules contract nothing.")
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return _section("9. Warnings", f"<ul>{items}</ul>" if items else "<p>None.</p>")


def _number(audit: Audit, run: Run, quantity: str, statistic: str = "mean") -> float | None:
    return audit.table.value(run.label, quantity, statistic)


def _of(audit: Audit, run: Run, quantity: str, statistic: str) -> str:
    return _short(_number(audit, run, quantity, statistic))


def _band(audit: Audit, run: Run, quantity: str, site: str) -> tuple[float, float, float] | None:
    low, middle, high = (audit.table.value(run.label, quantity, q, site) for q in ("q05", "q50", "q95"))
    return None if low is None or middle is None or high is None else (low, middle, high)


def _named(run: Run) -> str:
    return run.label if run.arm in run.label else f"{run.label} ({run.arm})"


def _short(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:+.4f}"


def _integer(value: int | None) -> str:
    return "" if value is None else str(value)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
