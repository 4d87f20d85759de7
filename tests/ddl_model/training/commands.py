"""Starting `ddl-train` as people do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

SMALL = {
    "model.width": "24",
    "model.feedforward_width": "40",
    "model.attention.heads": "2",
    "model.attention.head_width": "8",
    "data.sequence_length": "16",
    "data.validation_tokens": "200",
    "batch_size": "8",
}
"""Of `text-tiny`, for seconds."""


def training_settings(settings: dict[str, str]) -> dict[str, str]:
    """Return the fields that `training` sets, `__` in a name standing for a dot."""
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return {**SMALL, "model.vocab_size": "300", **named}


def training(tokens: Path, out: Path, *options: str, **settings: str) -> list[str]:
    """Return the command that trains a small language model on tokens, a vocabulary of 300."""
    fields = training_settings(settings)
    assignments = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    paths = ["--data", str(tokens), "--out", str(out)]
    return [sys.executable, "-m", "ddl_model.training", "text-tiny", *paths, "--compile", "off", *options, *assignments]


def run(command: list[str], timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
