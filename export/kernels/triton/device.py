"""Where the kernels run: on NVIDIA cards, or on the CPU in Triton's interpreter, which is for tests."""

import torch
import triton


def interpreted() -> bool:
    """Tell whether Triton interprets kernels: TRITON_INTERPRET=1 was set before Triton was imported."""
    return bool(triton.knobs.runtime.interpret)


def device_type() -> str | None:
    """Return the type of device that the kernels run on here, None where there is none."""
    if interpreted():
        return "cpu"
    return "cuda" if torch.cuda.is_available() else None


def processors(device: torch.device) -> int:
    """Return the number of multiprocessors of a card; the interpreter counts as one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
