"""MODEL_CARD.md: what a model is, its data, how it was trained, how good it is."""

from collections.abc import Mapping
from typing import Any

from ddl_model.config import DeltaResNetConfig, ImageClassifierConfig, LanguageModelConfig
from ddl_model.training.text.english import SOURCES
from export.kind import Kind
from export.manifest import parameter_count
from export.twin import Twin
from service.bundle import Manifest, Precision

_LEARNING_CURVE = {
    "train_loss": "training loss",
    "validation_loss": "validation loss",
    "validation_bits_per_byte": "bits per byte",
    "validation_accuracy": "validation accuracy",
}


def model_card(manifest: Manifest, kind: Kind, twin: Twin | None = None) -> str:
    """Return the card as a document, beside a control if there is one; what no record tells is left out."""
    config, training = kind.model.config, kind.checkpoint.training
    parameters = parameter_count(kind.checkpoint.weights)
    about = kind.card()
    summary, limits = about.pop("summary"), about.pop("Limits")
    lines = [
        f"# {manifest.name}",
        "",
        manifest.description or summary,
        "",
        f"- Architecture: {config.residual.rule} residuals, {_build(config)}, {parameters:,} parameters",
        *(f"- {name}: {text}" for name, text in about.items()),
        f"- Weights: SHA-256 `{manifest.weights_sha256}`",
    ]
    if training:
        steps = f"{training['step']:,} of {training['steps']:,} steps"
        lines += [
            f"- Recipe: `{training['recipe']}`, seed {training['seed']}, {steps}",
            f"- Data: {_data(training['data'])}",
            *_licences(training),
        ]
    lines += [f"- Limits: {limits}", ""]
    if manifest.metrics:
        rows = [[name.replace("_", " "), f"{value:.4f}"] for name, value in sorted(manifest.metrics.items())]
        lines += [*_table(["metric", "value"], rows), ""]
    if twin:
        lines += ["## Beside its twin", "", *_beside(twin, config.residual.rule, parameters, manifest.metrics), ""]
    if manifest.precision:
        lines += ["## Precision", "", *precision_lines(manifest.precision), ""]
    if curve := training.get("curve"):
        keys = [key for key in _LEARNING_CURVE if key in curve[0]]
        rows = [[f"{row['epoch']:g}", *(f"{row[key]:.4f}" for key in keys)] for row in curve]
        lines += ["## Curve", "", *_table(["epoch", *(_LEARNING_CURVE[key] for key in keys)], rows), ""]
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


def _beside(twin: Twin, rule: str, parameters: int, metrics: Mapping[str, float]) -> list[str]:
    """Return both networks side by side in what both were measured on."""
    rows = [["parameters", f"{parameters:,}", f"{twin.parameters:,}"]]
    rows += [
        [name.replace("_", " "), f"{metrics[name]:.4f}", f"{twin.metrics[name]:.4f}"]
        for name in sorted(metrics.keys() & twin.metrics.keys())
    ]
    told = f"`{twin.recipe}` has the same data, seed and schedule: its residual rule is the only difference."
    return [
        told,
        "One seed each: a difference as small as that between seeds says nothing.",
        "",
        *_table(["", rule, twin.rule], rows),
    ]


def _build(config: ImageClassifierConfig | DeltaResNetConfig | LanguageModelConfig) -> str:
    """Return how large a network is in its own terms."""
    if isinstance(config, DeltaResNetConfig):
        planes = ", ".join(str(planes) for planes in config.planes)
        return f"stages of {planes} planes with {config.blocks} blocks each"
    return f"{config.state.value_channels} value channels, {config.layers} layers of width {config.width}"


def _data(data: dict[str, Any]) -> str:
    """Return what the training record says of its data: images or tokens."""
    size = f"{data['train']['tokens']:,} training tokens" if "train" in data else f"{data['images']:,} training images"
    return f"{data['name']}, {size} (SHA-256 `{data['sha256']}`)"


def _licences(training: Mapping[str, Any]) -> list[str]:
    """Return whose data it is and on which terms, where that is known."""
    if training["config"].get("data", {}).get("corpus") == "english":
        return ["- Sources:", *(f"  - {source.about}: {source.licence}" for source in SOURCES)]
    if training["data"]["name"] == "fashion-mnist":
        return ["- Sources: Fashion-MNIST of Zalando Research, MIT licence"]
    return []


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
