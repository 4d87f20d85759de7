"""How much memory models take, and whether there is room for one more."""

from service.bundle import Bundle, Graph, LanguageModelling
from service.errors import MemoryLimit
from service.repository.config import Serving
from service.runtime.step_session import cache_bytes


def estimate_bytes(bundle: Bundle, serving: Serving) -> int:
    """Estimate what opening a bundle takes: the files of its graphs and weights, for each session, and caches.

    Buffers of a run are not counted; they depend on the requests.

    Raises:
        MemoryLimit: there is no room for the cache.
    """
    manifest, task = bundle.manifest, bundle.manifest.task
    size = serving.limits.instances * _file_bytes(bundle, manifest.graph)
    if isinstance(task, LanguageModelling) and task.step is not None:
        limits = serving.generation.limits(task, serving.limits.priorities)
        size += _file_bytes(bundle, task.step.graph) + limits.slots * cache_bytes(task.step.cache, limits.slot_tokens)
    return size


def _file_bytes(bundle: Bundle, graph: Graph) -> int:
    return sum((bundle.folder / file).stat().st_size for file in (graph.file, *graph.weights))


class MemoryBudget:
    """The bytes that all models may take together, those included that are being opened or still drain."""

    def __init__(self, limit_bytes: int) -> None:
        """Start empty; a limit of 0 is none."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def reserve(self, size: int) -> None:
        """Take a part of the budget.

        Raises:
            MemoryLimit: there is not enough left.
        """
        if self.limit_bytes and self.used_bytes + size > self.limit_bytes:
            raise MemoryLimit(
                f"it needs about {size / 1e6:.1f} MB, and {max(0, self.limit_bytes - self.used_bytes) / 1e6:.1f} MB of "
                f"memory_limit_bytes={self.limit_bytes} are free: unload a model, or raise the limit (a version that "
                "is replaced is in memory together with the new one)",
                bytes_estimate=size,
                used_bytes=self.used_bytes,
                limit_bytes=self.limit_bytes,
            )
        self.used_bytes += size

    def release(self, size: int) -> None:
        """Give a part back."""
        self.used_bytes -= size
