"""References go into bundles of the same weights, and nowhere else."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddl_model.audit.reference import make_reference, write_reference
from export.reference import main
from service.bundle import read_bundle
from service.gates.reference import read_reference


@pytest.fixture
def bundle(root: Path, tmp_path: Path) -> Path:
    """Return a copy of the shipped bundle."""
    folder = tmp_path / "fashion-mnist" / "1"
    shutil.copytree(root / "models" / "fashion-mnist" / "1", folder)
    return folder


def write(path: Path, bundle: Path, **changes: Any) -> Path:
    manifest = read_bundle(bundle).manifest
    assert manifest.gates is not None
    sites = tuple(site.name for site in manifest.gates.sites)
    counts = np.random.default_rng(0).integers(0, 9, (100, len(sites), 64))
    content = make_reference(
        counts, sites, name="f", created="2026", weights=manifest.weights_sha256, data=("images", "0" * 64)
    )
    write_reference(path, content | changes)
    return path


def test_a_reference_becomes_a_file_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "r.json", bundle)
    (bundle / "SHA256SUMS.minisig").write_text("signed", encoding="utf-8")
    assert main([str(bundle), str(file)]) == 0
    assert not (bundle / "SHA256SUMS.minisig").exists()
    found = read_reference(bundle, read_bundle(bundle).manifest)
    assert found is not None
    assert found.dataset.sequences == 100
    assert (found.histograms() == np.array(json.loads(file.read_text(encoding="utf-8"))["counts"])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "0" * 64}, "other weights"),
        ({"counts": []}, "counts must have 64 numbers"),
        ({"windows": [20]}, "thresholds"),
        ({"schema": "else"}, "schema"),
        ({"thresholds": [["x"]]}, "thresholds"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_bundle_alone(
    bundle: Path, tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (bundle / "SHA256SUMS").read_bytes()
    wrong = write(tmp_path / "r.json", bundle, **change)
    if change.get("windows"):
        content = json.loads(wrong.read_text(encoding="utf-8"))
        wrong.write_text(json.dumps(content | {"thresholds": []}), encoding="utf-8")
    assert main([str(bundle), str(wrong)]) == 1
    assert message in capsys.readouterr().err
    assert (bundle / "SHA256SUMS").read_bytes() == before
    read_bundle(bundle)
