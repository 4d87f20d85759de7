"""MODEL_CARD.md: what a model is, its data, how it was trained, how good it is."""

from typing import Any

from export.kind import Kind
from service.bundle import Manifest, Precision

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def model_card(manifest: Manifest, kind: Kind) -> str:
    """Return the card as a document; what the training record does not tell is left out."""
    config, training = kind.model.config, kind.checkpoint.training
    weights = kind.checkpoint.weights
    rule = f"{config.residual.rule} residuals, {config.state.value_channels} value channels"
    parameters = sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(_BUFFERS))
    about = kind.card()
    summary, limits = about.pop("summary"), about.pop("Limits")
    lines = [
        f"# {manifest.name}",
        "",
        manifest.description or summary,
        "",
        f"- Architecture: {rule}, {config.layers} layers of width {config.width}, {parameters:,} parameters",
        *(f"- {name}: {text}" for name, text in about.items()),
        f"- Weights: SHA-256 `{manifest.weights_sha256}`",
    ]
    if training:
        steps = f"{training['step']:,} of {training['steps']:,} steps"
        lines += [
            f"- Recipe: `{training['recipe']}`, seed {training['seed']}, {steps}",
            f"- Data: {_data(training['data'])}",
        ]
    lines += [f"- Limits: {limits}", ""]
    if manifest.metrics:
        rows = [[name.replace("_", " "), f"{value:.4f}"] for name, value in sorted(manifest.metrics.items())]
        lines += [*_table(["metric", "value"], rows), ""]
    if manifest.precision:
        lines += ["## Precision", "", *precision_lines(manifest.precision), ""]
    if curve := training.get("curve"):
        keys = ("train_loss", "validation_loss", "validation_accuracy")
        rows = [[f"{row['epoch']:g}", *(f"{row[key]:.4f}" for key in keys)] for row in curve]
        lines += [*_table(["epoch", "training loss", "validation loss", "validation accuracy"], rows), ""]
    return "\n".join(lines)


def precision_lines(precision: Precision | None) -> list[str]:
    """Return what low precision costs and saves, for people; nothing for float32."""
    if precision is None:
        return []
    cost = precision.cost
    size = f"{precision.bytes:,} bytes on disk; the parameters in float32 are {precision.float32_bytes:,}"
    lines = [f"Weights are {precision.kind}: {size}. What it costs, on {cost.data}:", ""]
    rows = [
        ["same most probable answer", f"{cost.agreement:.2%}", ""],
        ["divergence (nats)", f"{cost.divergence:.5f}", ""],
    ]
    for name, value in cost.metrics.items():
        rows.append([name.replace("_", " "), f"{value:.4f}", f"{cost.float32_metrics[name]:.4f}"])
    return [*lines, *_table(["", precision.kind, "float32"], rows)]


def _data(data: dict[str, Any]) -> str:
    """Return what the training record says of its data: images or tokens."""
    size = f"{data['train']['tokens']:,} training tokens" if "train" in data else f"{data['images']:,} training images"
    return f"{data['name']}, {size} (SHA-256 `{data['sha256']}`)"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
