"""An audit of two arms and three seeds: the report, its numbers, and what it says of them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import ddl_model.audit.__main__ as command
import ddl_model.audit.run as audit_run
from ddl_model import (
    AttentionConfig,
    ImageClassifier,
    ImageClassifierConfig,
    LanguageModel,
    LanguageModelConfig,
    ResidualConfig,
    StateConfig,
    trace,
)
from ddl_model.audit.data import open_data
from ddl_model.audit.measure import measure_run
from ddl_model.audit.plan import read_runs
from ddl_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ddl_model.config import ResidualRule
from ddl_model.training import fashion_mnist
from ddl_model.training.text.shards import ShardWriter, Split, TokensHeader
from tests.model_fixtures import SMALL_SHA256, lively

VOCABULARY, LENGTH, SEQUENCES, SAMPLE = 50, 12, 120, 8
ARMS: tuple[ResidualRule, ...] = ("delta", "write_only")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    ids = np.random.default_rng(0).zipf(1.5, LENGTH * SEQUENCES + 1) % VOCABULARY
    splits = {}
    for name in ("train", "validation"):
        writer = ShardWriter(folder, name, "uint16")
        writer.write(ids.tolist())
        splits[name] = Split(1, 1, len(ids), writer.close())
    header = TokensHeader(VOCABULARY, 0, "0" * 64, ("made up",), splits)
    (folder / "tokens.json").write_text(json.dumps(header.to_dict()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> list[str]:
    """Return checkpoints of two arms and three seeds."""
    folder, words = tmp_path_factory.mktemp("runs"), []
    for arm in ARMS:
        for seed in range(3):
            config = LanguageModelConfig(
                vocab_size=VOCABULARY,
                layers=2,
                width=16,
                feedforward_width=16,
                attention=AttentionConfig(heads=2, head_width=8),
                residual=ResidualConfig(rule=arm),
                state=StateConfig(value_channels=2),
            )
            model = lively(LanguageModel(config), seed=seed)
            training = {"config": {"seed": seed, "data": {"folder": str(tokens), "sequence_length": LENGTH}}}
            save_checkpoint(folder / f"{arm}-{seed}", 1, Checkpoint(model.state_dict(), config, training))
            words.append(str(folder / f"{arm}-{seed}"))
    return words


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, runs: list[str]) -> Path:
    """Return the folder of an audit of all runs."""
    out = tmp_path_factory.mktemp("audits") / "arms"
    assert command.main([*runs, "--out", str(out), "--sample", str(SAMPLE), "--quiet"]) == 0
    return out


class Page(HTMLParser):
    """Collects tags, attributes and the cells of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._in_cell = tag == "td"
        if self._in_cell:
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"


def table(out: Path) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    rows = pq.read_table(out / "table.parquet").to_pylist()
    return {(row["run"], row["quantity"], row["statistic"], row["site"]): row for row in rows}


def test_the_report_needs_nothing_but_itself(audited: Path) -> None:
    html = (audited / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(html.encode()) < 300_000
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form"})
    assert not re.search(r"https?:|url\(|@import|javascript:", html)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert "prefers-color-scheme:dark" in html
    for number in range(1, 10):
        assert f"<h2>{number}. " in html


def test_the_report_shows_the_numbers_of_the_table(audited: Path) -> None:
    page, numbers = Page((audited / "report.html").read_text(encoding="utf-8")), table(audited)
    run = "delta-0"
    row = [cell for cell in page.cells if cell][: len(page.cells)]
    for quantity, statistic in (
        ("e_pre_norm", "q50"),
        ("e_post_norm", "ratio_to_e_pre_norm"),
        ("balance", "mean"),
        ("survival", "q05"),
        ("embedding_kept", "q50"),
    ):
        assert f"{numbers[run, quantity, statistic, 'all']['value']:.4g}" in row
    assert f"{numbers[run, 'loss_change', 'all=0', 'all']['value']:+.4f}" in row
    losses = [numbers[f"delta-{seed}", "loss", "mean", "all"]["value"] for seed in range(3)]
    assert f"{np.mean(losses):.4g}" in row
    assert f"{np.std(losses, ddof=1):.4g}" in row


def test_three_seeds_settle_nothing_and_the_report_says_so(audited: Path) -> None:
    content = json.loads((audited / "audit.json").read_text(encoding="utf-8"))
    pair = content["comparisons"][0]
    html = (audited / "report.html").read_text(encoding="utf-8")
    assert content["summary"]["settled"] is False
    assert pair["seeds"] == [0, 1, 2]
    assert pair["verdict"].startswith("not settled: 3 pairs, at least 5 are needed")
    assert pair["verdict"] in html
    assert f"{pair['interval'][0]:+.4f} to {pair['interval'][1]:+.4f}" in html


def test_numbers_are_those_of_a_trace(audited: Path, runs: list[str]) -> None:
    data = open_data(read_runs(runs[:1]), None, 2000, None)
    model = load_checkpoint(runs[0])
    assert isinstance(model, LanguageModel)
    traced, numbers = trace(model, data.inputs, ["beta", "e_pre_norm", "embedding_kept"]), table(audited)
    assert len(data) == SEQUENCES
    for index, site in enumerate(("0.attn", "0.mlp", "1.attn", "1.mlp")):
        beta = traced["beta"][index].double().flatten()
        assert numbers["delta-0", "beta", "mean", site]["value"] == pytest.approx(float(beta.mean()), abs=1e-6)
        assert numbers["delta-0", "beta", "sd", site]["value"] == pytest.approx(float(beta.std(correction=0)), abs=1e-5)
        assert numbers["delta-0", "beta", "q50", site]["value"] == pytest.approx(float(beta.quantile(0.5)), abs=1 / 32)
        part = ((beta >= 0.75) & (beta < 1.25)).double().mean()
        assert numbers["delta-0", "beta", "match", site]["value"] == pytest.approx(float(part))
        assert numbers["delta-0", "beta", "mean", site]["n"] == SEQUENCES * LENGTH
    kept = float(traced["embedding_kept"].double().mean())
    assert numbers["delta-0", "embedding_kept", "mean", "all"]["value"] == pytest.approx(kept, abs=1e-6)
    logits = traced.logits.double().flatten(0, 1)
    loss = float(torch.nn.functional.cross_entropy(logits, data.labels.flatten()))
    assert numbers["delta-0", "loss", "mean", "all"]["value"] == pytest.approx(loss, abs=1e-6)


def test_what_an_arm_has_not_is_left_out(audited: Path) -> None:
    quantities = {(row["arm"], row["quantity"]) for row in table(audited).values()}
    assert ("delta", "survival") in quantities
    for absent in ("survival", "erase_norm", "balance", "embedding_kept"):
        assert ("write_only", absent) not in quantities
    assert ("write_only", "beta") in quantities
    changes = {key[2] for key in table(audited) if key[:2] == ("write_only-0", "loss_change")}
    assert "drop_erase" not in changes
    assert {"all=0", "clamp<=1", "0.attn=0", "1.mlp=0"} <= changes


def test_histograms_count_every_value(audited: Path) -> None:
    rows = pq.read_table(audited / "histograms.parquet").to_pylist()
    counts = sum(row["count"] for row in rows if (row["run"], row["quantity"]) == ("delta-1", "beta"))
    assert counts == 4 * SEQUENCES * LENGTH


def test_references_are_of_each_run(audited: Path) -> None:
    content = json.loads((audited / "reference-delta-2.json").read_text(encoding="utf-8"))
    assert content["dataset"]["sequences"] == SEQUENCES
    assert content["dataset"]["tokens"] == SEQUENCES * LENGTH
    assert content["windows"] == [10]
    assert len(list(audited.glob("reference-*.json"))) == 6


def test_an_audit_goes_on_where_it_was_stopped(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []
    measure = measure_run

    def stopped_in_the_second(run: Any, *rest: Any) -> Any:
        measured.append(run.label)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(run, *rest)

    monkeypatch.setattr(audit_run, "measure_run", stopped_in_the_second)
    arguments = [*runs[:2], "--out", str(tmp_path), "--sample", "2", "--sequences", "100", "--quiet"]
    assert command.main(arguments) == command.INTERRUPTED
    assert not (tmp_path / "report.html").exists()
    assert command.main(arguments) == 0
    assert measured == ["delta-0", "delta-1", "delta-1"]
    assert "1 of 2 runs are finished already" in capsys.readouterr().err
    assert command.main(arguments) == 0
    assert len(measured) == 3
    assert command.main([*arguments, "--interventions", "none"]) == 0  # other numbers are wanted: nothing fits
    assert len(measured) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--interventions", "all=3"], "there is no intervention 'all=3'"),
        (["--data", "nowhere"], "ddl-data prepare"),
    ],
)
def test_errors_name_the_fix(
    runs: list[str], tmp_path: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([runs[0], *change, "--out", str(tmp_path / "audit"), "--quiet"]) == 1
    assert message in capsys.readouterr().err


def test_a_seed_that_an_arm_has_twice_is_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([runs[0], runs[0], "--out", str(tmp_path), "--quiet"]) == 1
    assert "'delta' has seed 0 2 times" in capsys.readouterr().err


def test_images(tmp_path: Path, small_data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "SHA256", SMALL_SHA256)
    config = ImageClassifierConfig(
        labels=fashion_mnist.LABELS, stem_planes=(4, 4), width=8, layers=1, heads=2, feedforward_width=8
    )
    model = lively(ImageClassifier(config), seed=0)
    folder = save_checkpoint(tmp_path / "run", 1, Checkpoint(model.state_dict(), config, {}))
    out = tmp_path / "audit"
    arguments = [str(folder), "--data", str(small_data_folder), "--out", str(out), "--quiet"]
    assert command.main([*arguments, "--sample", "4"]) == 0
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "nats per image" in html
    assert "does not name its seed" in html
    content = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert content["summary"]["settled"] is None
