"""Finished runs of an audit on disk: an audit that was stopped goes on with the runs that are left."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ddl_model.audit.data import DataSet
from ddl_model.audit.measure import Measured
from ddl_model.audit.plan import Run

_VERSION = 1
"""Changed when the meaning of what is stored changes."""


def fingerprint(run: Run, data: DataSet, wanted: tuple[str, ...], sample: int) -> str:
    """Return what decides a run's numbers: weights, configuration, data, interventions, torch."""
    config = repr(run.config)
    parts = [_VERSION, run.weights_sha256, config, data.sha256, list(data.inputs.shape), wanted, sample]
    return hashlib.sha256(json.dumps([*parts, torch.__version__]).encode()).hexdigest()


def save_measured(path: Path, key: str, measured: Measured) -> None:
    """Write a run, under another name first: it is there whole or not at all."""
    tensors = {"losses": measured.losses}
    if measured.beta_counts is not None:
        tensors["beta_counts"] = measured.beta_counts
    for group, values in (("h", measured.histograms), ("s", measured.sums), ("i", measured.interventions)):
        tensors |= {f"{group}/{name}": tensor.contiguous() for name, tensor in values.items()}
    about = {"sites": measured.sites, "correct": measured.correct, "nonfinite": measured.nonfinite}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"key": key, "about": json.dumps(about)})
    partial.replace(path)


def load_measured(path: Path, key: str) -> Measured | None:
    """Read a run that was made of the same things, or None where there is none."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            about = json.loads(metadata["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, ValueError):
        return None  # a damaged file is made again

    def group(letter: str) -> dict[str, torch.Tensor]:
        return {name[2:]: tensor for name, tensor in tensors.items() if name.startswith(f"{letter}/")}

    return Measured(
        tuple(about["sites"]),
        tensors["losses"],
        about["correct"],
        group("h"),
        group("s"),
        about["nonfinite"],
        tensors.get("beta_counts"),
        group("i"),
    )
