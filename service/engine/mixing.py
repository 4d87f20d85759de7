"""Which requests may run together."""

from collections.abc import Hashable

from service.engine.job import Job
from service.manifest.tensors import Graph


class Mixing:
    """The rules of one graph: rows may share a run if inputs and outputs have one row for each of them."""

    def __init__(self, graph: Graph) -> None:
        """Read them from the shapes."""
        rows_everywhere = all(spec.shape[0] == -1 for spec in graph.inputs)
        self._batchable = frozenset(spec.name for spec in graph.outputs if rows_everywhere and spec.shape[0] == -1)
        self._is_ragged = any(-1 in spec.shape[1:] for spec in graph.inputs)

    def key(self, job: Job) -> Hashable:
        """Return what jobs of one batch have in common: outputs and shapes. None if this one has to run alone."""
        if not self._batchable.issuperset(job.outputs):
            return None
        if not self._is_ragged:
            return job.outputs
        return (job.outputs, *((name, array.shape[1:]) for name, array in sorted(job.feeds.items())))
