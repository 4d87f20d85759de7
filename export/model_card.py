"""MODEL_CARD.md: what a model is, its data, how it was trained, how good it is."""

from ddl_model.checkpoint import Checkpoint
from ddl_model.config import ImageClassifierConfig
from service.bundle import Manifest

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def model_card(manifest: Manifest, config: ImageClassifierConfig, checkpoint: Checkpoint) -> str:
    """Return the card as a document; what the training record does not tell is left out."""
    training = checkpoint.training
    rule = f"{config.residual.rule} residuals, {config.state.value_channels} value channels"
    parameters = sum(tensor.numel() for name, tensor in checkpoint.weights.items() if not name.endswith(_BUFFERS))
    lines = [
        f"# {manifest.name}",
        "",
        manifest.description or "An image classifier.",
        "",
        f"- Architecture: {rule}, {config.layers} layers of width {config.width}, {parameters:,} parameters",
        f"- Classes: {', '.join(config.labels)}",
        f"- Weights: SHA-256 `{manifest.weights_sha256}`",
    ]
    if training:
        data, steps = training["data"], f"{training['step']:,} of {training['steps']:,} steps"
        lines += [
            f"- Recipe: `{training['recipe']}`, seed {training['seed']}, {steps}",
            f"- Data: {data['name']}, {data['images']:,} training images (SHA-256 `{data['sha256']}`)",
        ]
    lines += ["- Limits: it knows images like those it was trained on, and gives every other image a class as well", ""]
    if manifest.metrics:
        rows = [[name.replace("_", " "), f"{value:.4f}"] for name, value in sorted(manifest.metrics.items())]
        lines += [*_table(["metric", "value"], rows), ""]
    if curve := training.get("curve"):
        keys = ("train_loss", "validation_loss", "validation_accuracy")
        rows = [[str(row["epoch"]), *(f"{row[key]:.4f}" for key in keys)] for row in curve]
        lines += [*_table(["epoch", "training loss", "validation loss", "validation accuracy"], rows), ""]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
