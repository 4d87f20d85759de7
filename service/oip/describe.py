"""What the service is, and what its models take and give."""

from collections.abc import Iterable
from typing import Any

from service import __version__
from service.manifest.tensors import TensorSpec
from service.repository import Loaded

NAME = "deep-delta-serving"
PLATFORM = "onnxruntime_onnx"

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
"""The extensions of the protocol that the service has, all of each."""


def server_metadata() -> dict[str, Any]:
    """Describe the service."""
    return {"name": NAME, "version": __version__, "extensions": EXTENSIONS}


def model_metadata(model: Loaded, versions: Iterable[str]) -> dict[str, Any]:
    """Describe a model's tensors; `versions` are those that answer."""
    graph = model.manifest.graph
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [_metadata(spec) for spec in graph.inputs],
        "outputs": [_metadata(spec) for spec in graph.outputs],
    }


def model_config(model: Loaded, max_rows: int) -> dict[str, Any]:
    """Describe how a model is served, in the terms of the model configuration extension.

    `max_rows` is the most that one request may have; how many rows share a run stands in the parameters.
    """
    manifest, limits = model.manifest, model.batcher.limits
    batchable = model.view.batchable
    kind = "KIND_GPU" if model.session.provider.startswith("CUDA") else "KIND_CPU"
    config: dict[str, Any] = {
        "name": model.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": _policy(model),
        "max_batch_size": max_rows if batchable else 0,
        "input": [_config(spec, batchable) for spec in manifest.graph.inputs],
        "output": [_config(spec, batchable) for spec in manifest.graph.outputs],
        "instance_group": [{"name": f"{model.name}_0", "count": limits.instances, "kind": kind}],
        "default_model_filename": manifest.graph.file,
        "parameters": {
            name: {"string_value": str(value)}
            for name, value in {
                "batch_rows": limits.max_rows,
                "bucket_rows": ",".join(map(str, limits.bucket_rows)),
                "kernel_path": model.session.kernel.path,
                "provider": model.session.provider,
                "task": manifest.task.kind,
                "weights_sha256": manifest.weights_sha256,
            }.items()
        },
    }
    if batchable:
        config["dynamic_batching"] = {
            "preferred_batch_size": list(limits.preferred_rows),
            "max_queue_delay_microseconds": round(limits.max_wait_ms * 1000),
            "priority_levels": limits.priorities,
            "default_priority_level": limits.level(0) + 1,
            "default_queue_policy": {
                "default_timeout_microseconds": round(limits.default_timeout_ms * 1000),
                "allow_timeout_override": True,
                "max_queue_size": limits.queue_limit,
            },
        }
    return config


def _policy(model: Loaded) -> dict[str, Any]:
    policy = model.serving.policy
    if policy.kind == "latest":
        return {"latest": {"num_versions": policy.count}}
    return {"all": {}} if policy.kind == "all" else {"specific": {"versions": list(policy.numbers)}}


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config(spec: TensorSpec, batchable: bool) -> dict[str, Any]:
    dims = spec.shape[1:] if batchable else spec.shape
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(dims)}
