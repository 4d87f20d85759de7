"""Golden samples: inputs that exercise a model, what comes out, and the files that record both."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ddl_model.config import DeltaResNetConfig, ImageClassifierConfig
from export.kind import Run, Script
from service.bundle import StepGraph

_DTYPES = {"FP32": torch.float32, "FP16": torch.float16}


def sample_pixels(
    config: ImageClassifierConfig | DeltaResNetConfig, own: Mapping[str, Tensor], count: int = 8, seed: int = 0
) -> Tensor:
    """Return golden inputs: the checkpoint's `own` samples where it has some, else noise, and one loud noise image.

    The loud one, four times as large as any image, drives gates and norms to where real images rarely take them.
    """
    shape = (config.image_channels, config.image_height, config.image_width)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=generator)
    samples = own.get("pixels", noise)[: count - 1]
    return torch.cat([samples, 4.0 * noise[:1]])


def sample_ids(vocabulary: int, own: Mapping[str, Tensor], rows: int, tokens: int, seed: int = 0) -> Tensor:
    """Return golden texts: the beginning of the checkpoint's `own` sample where it is long enough, and random ids."""
    ids = torch.randint(vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    sample = own.get("input_ids")
    if sample is not None and sample.shape[1] >= tokens:
        ids[0] = sample[0, :tokens]
    return ids


def write_run(path: Path, run: Run) -> None:
    """Record one run: what goes into the graph as `input/NAME`, what comes out as `output/NAME`."""
    _write(path, _named(run))


def write_steps(path: Path, script: Script) -> None:
    """Record runs in a row as `STEP/input/NAME` and `STEP/output/NAME`; what is carried is left out."""
    steps = ((f"{step}/{name}", tensor) for step, run in enumerate(script.runs) for name, tensor in _named(run))
    _write(path, steps)


def read_steps(bundle: Path, described: StepGraph) -> Script:
    """Read what `write_steps` has recorded; the cache is empty at first."""
    steps: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for name, tensor in load_file(bundle / described.golden.file).items():
        step, kind, tensor_name = name.split("/", 2)
        inputs, outputs = steps.setdefault(int(step), ({}, {}))
        (inputs if kind == "input" else outputs)[tensor_name] = tensor
    runs = tuple(Run(*steps[step]) for step in sorted(steps))
    rows, slots = len(runs[0].inputs[described.tokens]), described.golden.slots
    start = {
        tensor.past: torch.zeros(
            rows, *(slots if size == -1 else size for size in tensor.shape), dtype=_DTYPES[tensor.datatype]
        )
        for tensor in described.cache
    }
    return Script(runs, {tensor.present: tensor.past for tensor in described.cache}, start)


def _named(run: Run) -> Iterable[tuple[str, Tensor]]:
    yield from ((f"input/{name}", tensor) for name, tensor in run.inputs.items())
    yield from ((f"output/{name}", tensor) for name, tensor in run.outputs.items())


def _write(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not save_file: it makes files that only their owner can read.
    path.write_bytes(save({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors}))
