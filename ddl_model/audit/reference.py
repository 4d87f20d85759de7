"""`reference.json`: the gates of one run on the data, and how far windows of the same data stray from them.

Sequences are drawn whole: tokens of one text are far from independent, and thresholds for independent ones would alarm
on nearly every window.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddl_model.audit.bins import BETA_BINS

SCHEMA = "ddl.gates.reference/1"
NAME = "reference.json"
WINDOWS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SMALLEST_SHARE = 10
"""A reference says little about windows of more than a tenth of its sequences."""
QUANTILE = 0.999
DRAWS = 4000
_DRAWS_AT_ONCE = 250


def reference_windows(sequences: int) -> tuple[int, ...]:
    """Return the sizes of windows, in sequences, that so large a reference has thresholds for."""
    return tuple(window for window in WINDOWS if window * SMALLEST_SHARE <= sequences)


def bootstrap_thresholds(counts: NDArray[np.int64], window: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Return, by site, the distance from all sequences that `window` of them exceed once in a thousand draws.

    `counts` is (sequence, site, bin). A distance is Wasserstein-1 between histograms on [0, 2], in units of beta. The
    reference is itself a sample: its own error is taken into account.
    """
    sequences, sites, bins = counts.shape
    generator = np.random.default_rng(seed)
    flat = counts.reshape(sequences, sites * bins).astype(np.float32)
    whole = _cumulative(counts.sum(0))
    distances = []
    for start in range(0, DRAWS, _DRAWS_AT_ONCE):
        drawn = generator.integers(0, sequences, (min(_DRAWS_AT_ONCE, DRAWS - start), window))
        weights = np.stack([np.bincount(row, minlength=sequences) for row in drawn]).astype(np.float32)
        resampled = _cumulative((weights @ flat).reshape(len(drawn), sites, bins))
        distances.append(np.abs(resampled - whole).sum(-1) * (2 / bins))
    larger = np.sqrt(1 + window / sequences)
    return np.asarray(np.quantile(np.concatenate(distances), QUANTILE, axis=0) * larger)


def make_reference(
    counts: NDArray[np.int64], sites: tuple[str, ...], *, name: str, created: str, weights: str, data: tuple[str, str]
) -> dict[str, Any]:
    """Return the content of a reference; `data` is the data set's name and hash.

    Raises:
        ValueError: there are fewer than 100 sequences.
    """
    windows = reference_windows(len(counts))
    if not windows:
        raise ValueError(f"{len(counts)} sequences are too few for a reference: give {WINDOWS[0] * SMALLEST_SHARE}")
    assert counts.shape[2] == BETA_BINS
    return {
        "schema": SCHEMA,
        "id": f"{name}-{data[1][:8]}-{len(counts)}",
        "created": created,
        "weights_sha256": weights,
        "dataset": {
            "name": data[0],
            "sha256": data[1],
            "sequences": len(counts),
            "tokens": int(counts.sum()) // len(sites),
        },
        "sites": list(sites),
        "counts": counts.sum(0).tolist(),
        "windows": list(windows),
        "thresholds": [[round(float(x), 6) for x in bootstrap_thresholds(counts, window)] for window in windows],
    }


def write_reference(path: Path, content: dict[str, Any]) -> None:
    """Write a reference, a line for each field."""
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    path.write_text(f"{{\n {lines}\n}}\n", encoding="utf-8")


def _cumulative(counts: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.cumsum(counts, -1) / np.maximum(1, counts.sum(-1, keepdims=True)))
