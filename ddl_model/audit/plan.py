"""What an audit runs: checkpoints with their arms and seeds."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ddl_model.audit.errors import AuditError
from ddl_model.checkpoint import AUTHORS_PICKLE_NAME, WEIGHTS_NAME, Checkpoint, find_checkpoint, read_checkpoint
from ddl_model.config import ImageClassifierConfig, LanguageModelConfig


@dataclass(frozen=True)
class Run:
    """A checkpoint to audit: `arm` is what is compared, runs of one `seed` are pairs."""

    label: str
    arm: str
    seed: int | None
    folder: Path
    weights_sha256: str
    checkpoint: Checkpoint

    @property
    def config(self) -> LanguageModelConfig | ImageClassifierConfig:
        """The network's configuration."""
        config = self.checkpoint.config
        assert isinstance(config, LanguageModelConfig | ImageClassifierConfig)
        return config

    @property
    def rule(self) -> str:
        """The residual rule."""
        return self.config.residual.rule


def read_runs(words: list[str]) -> list[Run]:
    """Read the checkpoints that `FOLDER` or `ARM=FOLDER` name; without a name the residual rule is the arm.

    Raises:
        AuditError: a network has no sites, networks differ in kind, or an arm has a seed twice.
        CheckpointError: a checkpoint cannot be read.
    """
    runs: list[Run] = []
    for word in words:
        arm, equals, folder = word.partition("=")
        run = _read(Path(folder if equals else word), arm if equals else "")
        taken = {other.label for other in runs}
        label, number = run.label, 2
        while label in taken:
            label, number = f"{run.label}-{number}", number + 1
        runs.append(Run(label, run.arm, run.seed, run.folder, run.weights_sha256, run.checkpoint))
    kinds = {type(run.config).__name__ for run in runs}
    if len(kinds) > 1:
        raise AuditError(f"these are networks of different kinds, {' and '.join(sorted(kinds))}: audit them apart")
    for (arm, seed), times in Counter((run.arm, run.seed) for run in runs).items():
        if times > 1 and seed is not None:
            raise AuditError(
                f"arm {arm!r} has seed {seed} {times} times: pairs would be ambiguous; name arms by ARM=FOLDER"
            )
    return runs


def _read(path: Path, arm: str) -> Run:
    folder = find_checkpoint(path)
    checkpoint = read_checkpoint(folder, optimizer=False)
    config = checkpoint.config
    if not isinstance(config, LanguageModelConfig | ImageClassifierConfig):
        raise AuditError(f"{path} holds a {type(config).__name__}: audits are of language models and image classifiers")
    weights = next(file for name in (WEIGHTS_NAME, AUTHORS_PICKLE_NAME) if (file := folder / name).is_file())
    with weights.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    seed = checkpoint.training.get("config", {}).get("seed")
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip(".-") or "run"
    return Run(label, arm or config.residual.rule, seed, folder, digest, checkpoint)
