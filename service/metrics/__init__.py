"""Every metric of the service, by what it tells about. Nothing else in the service knows Prometheus."""

from service.metrics.batches import BATCH_ROWS, ModelFigures
from service.metrics.http import SECONDS
from service.metrics.metrics import Family, Metrics, Sample

__all__ = ["BATCH_ROWS", "SECONDS", "Family", "Metrics", "ModelFigures", "Sample"]
