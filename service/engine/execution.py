"""One run of a batch: arrays put together, the model run, the answers taken apart."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.job import Job, Outcome
from service.errors import ModelFailed, ServiceError
from service.gates.live.probe import Probe
from service.runtime.session import Session

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """What came out of a batch: one array per output with the rows of all jobs, or an error; and seconds."""

    outputs: Outcome
    input_seconds: float
    infer_seconds: float


def execute(session: Session, batch: Sequence[Job], padded_rows: int, probe: Probe | None = None) -> Run:
    """Run jobs together, with what a probe wants to see besides; never raises."""
    wanted = batch[0].outputs
    looked_at = () if probe is None else probe.outputs()
    start = together = perf_counter()
    try:
        feeds = _together(batch, padded_rows)
        together = perf_counter()
        found = session.run(feeds, (*wanted, *(name for name in looked_at if name not in wanted)))
        ended = perf_counter()
        if probe is not None and looked_at:
            probe.take(found, sum(job.rows for job in batch), ended - together)
            found = {name: found[name] for name in wanted}
        return Run(found, together - start, ended - together)
    except ServiceError as error:
        outputs: ServiceError = error
    except Exception as error:
        _logger.exception("a batch could not be run", extra={"fields": {"jobs": len(batch)}})
        outputs = ModelFailed(f"the model could not be run: {type(error).__name__}")
    return Run(outputs, together - start, perf_counter() - together)


def split(outputs: Outcome, batch: Sequence[Job], padded_rows: int) -> list[Outcome]:
    """Give each job its rows.

    Raises:
        ServiceError: the run failed.
        ModelFailed: an output does not have one row for each row of the inputs.
    """
    if isinstance(outputs, ServiceError):
        raise outputs
    if len(batch) == 1 and padded_rows == batch[0].rows:
        return [outputs]
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != padded_rows:
            raise ModelFailed(f"output {name!r} has shape {list(array.shape)} for a batch of {padded_rows} rows")
    outcomes: list[Outcome] = []
    start = 0
    for job in batch:
        stop = start + job.rows
        outcomes.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return outcomes


def _together(batch: Sequence[Job], padded_rows: int) -> dict[str, NDArray[Any]]:
    first = batch[0]
    missing = padded_rows - sum(job.rows for job in batch)
    if len(batch) == 1 and not missing:
        return first.feeds
    feeds = {}
    for name, array in first.feeds.items():
        parts = [job.feeds[name] for job in batch]
        if missing:
            parts.append(np.zeros((missing, *array.shape[1:]), array.dtype))
        feeds[name] = np.concatenate(parts)
    return feeds
