"""Where and how a step is computed: devices, processes, sharding, precision. Lightning Fabric does the distribution.

Whatever the strategy, weights and optimizer state leave and enter by parameter name and as whole tensors, so that a
checkpoint does not know how many devices it was made on.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from ddl_model.config import ConfigError
from ddl_model.observe import Observer
from ddl_model.training.config import OptimizerConfig, Precision
from ddl_model.training.kernels import FewStates, enable_kernels
from ddl_model.training.optimizer import optimizer_of
from ddl_model.training.task import Batch, Task

Accelerator = Literal["auto", "cpu", "cuda"]
Strategy = Literal["auto", "ddp", "fsdp"]
_SHARDED_ALONE = ("process", "branch")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass(frozen=True)
class Placement:
    """Where a run computes. It may change when a run is resumed.

    `devices` are per node. `ddp` keeps the whole model on each, `fsdp` shards weights, gradients and optimizer state;
    `auto` is `ddp` where there is more than one device. `fsdp` is FSDP2 (`torch.distributed.fsdp.fully_shard`).
    `kernels` names a module with kernels for the operators; with `keep_states` above 0, which needs them and
    `compile_model`, one in so many states is kept for the backward pass and the others are made again.
    """

    devices: int = 1
    nodes: int = 1
    strategy: Strategy = "auto"
    accelerator: Accelerator = "auto"
    compile_model: bool = False
    kernels: str = ""
    keep_states: int = 0

    @property
    def processes(self) -> int:
        """Number of processes, one per device."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class StepResult:
    """What a step came to, the same on every process. `wants_stop`: some process was asked to stop."""

    loss: float
    gradient_norm: float
    wants_stop: bool


class Engine:
    """Runs steps and evaluations of one model on all devices."""

    def __init__(self, placement: Placement, precision: Precision) -> None:
        """Start the other processes, if there are any; each runs the program from its beginning to this point."""
        self.placement = placement
        processes = placement.processes
        strategy: Any = placement.strategy
        if strategy == "fsdp":
            strategy = ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1)
        elif strategy == "auto" and processes > 1:
            strategy = "ddp"
        self.fabric = Fabric(
            accelerator=placement.accelerator,
            devices=placement.devices,
            num_nodes=placement.nodes,
            strategy=strategy,
            precision=precision,
        )
        self.fabric.launch()
        self.rank, self.processes = self.fabric.global_rank, self.fabric.world_size

    def set_up(self, model: nn.Module, optimizer: OptimizerConfig) -> None:
        """Put a model onto the devices and make its optimizer. Batch norms on several GPUs share their statistics."""
        if self.processes > 1 and self.fabric.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model
        compiled = self._with_kernels(model)
        if self.placement.compile_model:
            compiled = torch.compile(compiled)  # type: ignore[assignment]
        self.forward = self.fabric.setup_module(compiled)
        self.clip_norm = optimizer.clip_norm
        self.plain_optimizer = optimizer_of(model, optimizer)
        self.optimizer: Any = self.fabric.setup_optimizers(self.plain_optimizer)

    def _with_kernels(self, model: nn.Module) -> nn.Module:
        """Put the kernels behind the operators, and keep as many states as is wanted.

        Raises:
            ConfigError: the kernels are not to be had, or states are to be made again without them or uncompiled.
        """
        placement = self.placement
        if placement.keep_states and not (placement.kernels and placement.compile_model):
            raise ConfigError("--keep-states needs --kernels and --compile on: nothing else makes states again")
        if not placement.kernels:
            return model
        kernels = enable_kernels(placement.kernels)
        return FewStates(model, kernels, placement.keep_states) if placement.keep_states else model

    def step(self, parts: Sequence[Batch], task: Task, learning_rate: float, wants_stop: bool = False) -> StepResult:
        """Take one step on this process's parts of a batch, which are of equal size.

        If the loss or the gradient is no finite number on any process, the weights stay as they are.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        total = torch.zeros((), device=self.fabric.device)
        for index, (inputs, labels) in enumerate(parts):
            more = index + 1 < len(parts)
            with self._without_sync(more):
                loss = task.loss(self.forward, *self._to_device((inputs, labels))) / len(parts)
                self.fabric.backward(loss)
            total += loss.detach()
        shared = torch.stack([total, torch.full_like(total, float(wants_stop))])
        mean_loss, stops = self._sum(shared).div(self.processes).tolist()
        norm = self._clip()
        if math.isfinite(mean_loss) and math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(mean_loss, norm, stops > 0)

    @torch.no_grad()
    def evaluate(self, task: Task, batches: Sequence[Callable[[], Batch]]) -> dict[str, float]:
        """Measure the model on batches, each of them on one process."""
        self.model.eval()
        self._share_buffers()
        sums: Tensor | None = None
        for first in range(0, len(batches), self.processes):
            # Every process runs the model equally often, as sharded weights need; the last ones may run it for nothing.
            index = first + self.rank
            inputs, labels = self._to_device(batches[min(index, len(batches) - 1)]())
            with self.fabric.autocast():
                measured = task.measure(self.model, inputs, labels)
            measured = measured * float(index < len(batches))
            sums = measured if sums is None else sums + measured
        self.model.train()
        if sums is None:
            raise ValueError("there is nothing to evaluate")
        return task.metrics(self._sum(sums).cpu())

    @torch.no_grad()
    def observe(self, task: Task) -> dict[str, Tensor]:
        """Return the gates of each site over a few held-out rows, on the CPU; empty for an additive network."""
        observer = Observer()
        self.model.eval()
        with self.fabric.autocast():
            task.observe(self.model, observer)
        self.model.train()
        return {site: seen.beta.float().cpu() for site, seen in observer.rewrites.items()}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights, whole and on the CPU; on processes other than the first they may be missing."""
        weights: dict[str, Any] = get_model_state_dict(self.model, options=_WHOLE)
        return weights

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state as `PARAMETER/KEY`; as `weights`. There must have been a step."""
        state: Any = get_optimizer_state_dict(self.model, self.plain_optimizer, options=_WHOLE).get("state", {})
        return {f"{name}/{key}": value for name, entry in state.items() for key, value in entry.items()}

    def restore(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Put back what `weights` and `optimizer_tensors` returned, on whatever devices; no optimizer before a step."""
        set_model_state_dict(self.model, dict(weights), options=StateDictOptions(full_state_dict=True))
        if not optimizer:
            return
        state: dict[str, Any] = {}
        for name, tensor in optimizer.items():
            parameter, _, key = name.rpartition("/")
            state.setdefault(parameter, {})[key] = tensor
        groups = get_optimizer_state_dict(self.model, self.plain_optimizer)["param_groups"]
        whole = {"state": state, "param_groups": groups}
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, self.plain_optimizer, whole, options=options)

    def _share_buffers(self) -> None:
        """Give every process the running statistics of the first one, which are those of the checkpoint."""
        if self.processes > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _clip(self) -> float:
        if self.clip_norm == 0:
            return 0.0
        norm: Any = self.fabric.clip_gradients(
            self.forward, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False
        )
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _without_sync(self, enabled: bool) -> AbstractContextManager[Any]:
        return self.fabric.no_backward_sync(self.forward, enabled=enabled and self.processes > 1)

    def _to_device(self, batch: Batch) -> Batch:
        inputs, labels = self.fabric.to_device(batch)
        return inputs, labels

    def _sum(self, values: Tensor) -> Tensor:
        if self.processes == 1:
            return values
        summed: Tensor = self.fabric.all_reduce(values, reduce_op="sum")  # type: ignore[assignment]
        return summed


def _shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard each sublayer's process (or branch) by itself, so that only one is whole at a time, and the rest together.

    Nearly all weights are in them. Not blocks: a rewrite reads the compressor and norm of the sublayer that follows.
    """
    data_parallel = mesh["data_parallel"]
    for name, module in model.named_modules():
        if name.rpartition(".")[-1] in _SHARDED_ALONE:
            fully_shard(module, mesh=data_parallel)
    fully_shard(model, mesh=data_parallel)
    return model
