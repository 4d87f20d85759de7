"""What `training.json` says of a run beside its numbers."""

import platform
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ddl_model.training.engine import Placement

_PACKAGES = ("deep-delta-serving", "numpy", "lightning-fabric", "tokenizers", "safetensors")


def made_with(placement: Placement, device: torch.device) -> dict[str, Any]:
    """Return versions, and where the run computes."""
    versions = {name: found for name in _PACKAGES if (found := _version(name))}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "device": name,
        "threads": torch.get_num_threads(),
        "placement": asdict(placement),
    }


def jsonable(value: Any) -> Any:
    """Return `value` as it comes back from a JSON file: data classes as objects, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def comparable(config: Any) -> Any:
    """Return the JSON form of a run's configuration without where its data lie: what they are, a hash tells."""
    found = jsonable(config)
    if isinstance(found, dict) and isinstance(found.get("data"), dict):
        found["data"].pop("folder", None)
    return found


def differences(saved: Any, wanted: Any, path: str = "") -> str:
    """Return in words where two configurations differ, such as `seed is 1, was 0`; empty where they are the same."""
    if not isinstance(saved, dict) or not isinstance(wanted, dict):
        return "" if saved == wanted else f"{path or 'it'} is {wanted!r}, was {saved!r}"
    prefix = f"{path}." if path else ""
    names = [*wanted, *(name for name in saved if name not in wanted)]
    found = [differences(saved.get(name), wanted.get(name), f"{prefix}{name}") for name in names]
    return ", ".join(text for text in found if text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
