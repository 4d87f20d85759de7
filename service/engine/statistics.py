"""Counters of one model version, in the terms of the statistics extension of the Open Inference Protocol."""

import time
from dataclasses import dataclass, field

from service.metrics import ModelFigures


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Book `count` happenings which took `seconds` together."""
        self.count += count
        self.ns += round(seconds * 1e9)


@dataclass(slots=True)
class BatchStatistics:
    """The runs of one batch size: each counts once, however many requests were in it."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class BatchTimes:
    """Seconds of the steps of one run: arrays put together, model run, answers handed out."""

    compute_input: float
    compute_infer: float
    compute_output: float


@dataclass(slots=True)
class Statistics:
    """What became of the requests of one model version, and how long it took.

    Times per request: `success`, `fail` and `cancel` from arrival to the end, `queue` until its run began; the
    `compute_...` times of a run count fully for each request in it. `fail` holds all that were refused or broke,
    `cancel` those whose caller hung up before their run. `inference_count` counts rows, `execution_count` runs,
    `rejected` refusals because the queue was full, `expired` deadlines that passed in the queue (both also in `fail`).
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    rejected: int = 0
    expired: int = 0
    batches: dict[int, BatchStatistics] = field(default_factory=dict)
    """By rows of the batch, without the rows that filled it up."""

    def ran(self, jobs: int, rows: int, queue_seconds: float, times: BatchTimes) -> None:
        """Book a run of `jobs` requests, which had waited `queue_seconds` together."""
        self.inference_count += rows
        self.execution_count += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        size = self.batches.get(rows)
        if size is None:
            size = self.batches[rows] = BatchStatistics()
        self.queue.add(queue_seconds, jobs)
        for name in ("compute_input", "compute_infer", "compute_output"):
            seconds: float = getattr(times, name)
            getattr(self, name).add(seconds * jobs, jobs)
            getattr(size, name).add(seconds)

    def figures(self, name: str, version: str, waiting: int, running: int) -> ModelFigures:
        """Return what the metrics tell of a model: each request is counted under one outcome."""
        requests = {
            "answered": self.success.count,
            "failed": self.fail.count - self.rejected - self.expired,
            "rejected": self.rejected,
            "expired": self.expired,
            "cancelled": self.cancel.count,
        }
        batches = {rows: size.compute_infer.count for rows, size in self.batches.items()}
        steps = ("queue", "compute_input", "compute_infer", "compute_output")
        seconds = {step: getattr(self, step).ns / 1e9 for step in steps}
        return ModelFigures(name, version, waiting, running, requests, batches, seconds)
