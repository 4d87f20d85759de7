"""What the repository says of its models: log lines and metrics."""

import logging

from service.metrics import Metrics
from service.repository.loaded import Loaded

_logger = logging.getLogger(__name__)


class Report:
    """Tells what became of versions; without metrics by the log alone."""

    def __init__(self, metrics: Metrics | None) -> None:
        """Keep the metrics."""
        self._metrics = metrics

    def ready(self, model: Loaded) -> None:
        """A version answers from now on."""
        kernel = model.session.kernel
        fell_back = kernel.path == "plain" and bool(model.manifest.graph.custom_ops)
        fields = {
            "model": model.name,
            "version": model.version,
            "kernel_path": kernel.path,
            "kernel_reason": kernel.reason,
            "provider": model.session.provider,
            "instances": len(model.sessions),
            "load_seconds": model.load_seconds,
            "golden_difference": f"{model.golden_difference:.2g}",
        }
        _logger.log(logging.WARNING if fell_back else logging.INFO, "model ready", extra={"fields": fields})
        if self._metrics is not None:
            self._metrics.models.opened(
                model.name,
                model.version,
                load_seconds=model.load_seconds,
                memory_bytes=model.memory_bytes,
                kernel=(kernel.path, kernel.reason),
                nodes={op.name: op.count for op in model.manifest.graph.custom_ops},
            )

    def refused(self, name: str, version: str, reason: str, answering: list[str]) -> None:
        """A version could not be opened; `answering` are the versions of the model that go on."""
        fields: dict[str, object] = {"model": name, "version": version, "reason": reason}
        if answering:
            fields["answering"] = ", ".join(answering)
        _logger.error("model refused", extra={"fields": fields})
        if self._metrics is not None:
            self._metrics.models.refused(name, version, answers=version in answering)

    def closed(self, name: str, version: str, reason: str) -> None:
        """A version gets no more requests."""
        fields = {"model": name, "version": version, "reason": reason}
        _logger.info("model unloaded", extra={"fields": fields})
        self.forgotten(name, version)

    def forgotten(self, name: str, version: str) -> None:
        """A version that does not answer should not, from now on."""
        if self._metrics is not None:
            self._metrics.models.closed(name, version)

    def unreachable(self, place: str, reason: str, *, is_news: bool) -> None:
        """The store could not be looked at; what is served goes on. The log says it once for each reason."""
        if is_news:
            _logger.error("the repository cannot be read", extra={"fields": {"repository": place, "reason": reason}})
        if self._metrics is not None:
            self._metrics.models.repository_failures.inc()
