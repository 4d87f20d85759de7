"""A control that was trained like the exported network but for its residual rule, for the model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddl_model.checkpoint import Checkpoint, CheckpointError, find_checkpoint, read_checkpoint
from export.manifest import parameter_count, training_metrics

_MAY_DIFFER = ("name", "model.residual", "model.state", "data.folder", "save_every", "evaluate_every")
"""Where data lies is not what they are: their hash is held to. An additive network's state has one value channel."""


class TwinRefused(ValueError):
    """Two runs are no twins; the message says in what else they differ."""


@dataclass(frozen=True)
class Twin:
    """What a card tells of a twin: its rule and recipe, how large it is, and how good."""

    rule: str
    recipe: str
    parameters: int
    metrics: Mapping[str, float]


def read_twin(path: Path, checkpoint: Checkpoint) -> Twin:
    """Read a run, or one of its checkpoints, that was trained like `checkpoint` but for its residual rule.

    Raises:
        TwinRefused: data, seed, steps or anything else of the configuration differ, or the rule does not.
    """
    try:
        other = read_checkpoint(find_checkpoint(path), optimizer=False)
    except CheckpointError as error:
        raise TwinRefused(f"the twin cannot be read: {error}") from error
    mine, theirs = _record(checkpoint, "the checkpoint"), _record(other, str(path))
    differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        raise TwinRefused(
            f"{path} is no twin: {name} is {theirs.get(name)!r} there and {mine.get(name)!r} here; "
            "twins differ in their residual rule alone (ddl-train RECIPE --additive)"
        )
    rule = other.config.residual.rule
    if rule == checkpoint.config.residual.rule:
        raise TwinRefused(f"{path} is no twin: its residual rule is {rule!r} as well")
    return Twin(rule, other.training["recipe"], parameter_count(other.weights), training_metrics(other))


def _record(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Return what twins share, by name: configuration, data, seed, and how far the training got."""
    training = checkpoint.training
    if "config" not in training:
        raise TwinRefused(f"{name} has no record of its training (training.json)")
    record: dict[str, Any] = {}
    for section, values in training["config"].items():
        if isinstance(values, dict):
            record |= {f"{section}.{field}": value for field, value in values.items()}
        else:
            record[section] = values
    record |= {"seed": training["seed"], "data.sha256": training["data"]["sha256"], "step": training["step"]}
    return {name: value for name, value in record.items() if name not in _MAY_DIFFER}
