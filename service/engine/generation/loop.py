"""Continuous batching: in each turn sequences are admitted, a part of the prompts is computed, every answer grows.

The loop is plain calls on one thread; who calls `turn`, and where events go, is its owner's business.
"""

import logging
from collections.abc import Callable
from threading import Lock
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.best_of import BestOf
from service.engine.generation.counts import LoopCounts
from service.engine.generation.events import TokenEvent
from service.engine.generation.limits import GenerationLimits
from service.engine.generation.queue import FairQueue
from service.engine.generation.request import GenerateRequest
from service.engine.generation.scheduler import Prompt, plan_exchanges, plan_prefill
from service.engine.generation.sequence import Sequence, Status
from service.engine.generation.slot_table import SlotTable
from service.engine.generation.stepper import Stepper
from service.engine.generation.steps import Steps
from service.errors import DeadlinePassed, InvalidFields, Overloaded, ServiceError
from service.gates.live.probe import TokenProbe
from service.metrics.generation import SPREADS, GenerationFigures
from service.text import TextTokenizer

_OUTCOMES = ("completed", "cancelled", "expired", "failed", "rejected")

_logger = logging.getLogger(__name__)


class GenerationLoop:
    """The sequences of one model. `submit` may be called from any thread, everything else from one."""

    def __init__(
        self,
        stepper: Stepper,
        tokenizer: TextTokenizer | None,
        limits: GenerationLimits,
        *,
        clock: Callable[[], float] = perf_counter,
        ended: Callable[[Sequence], None] = lambda sequence: None,
    ) -> None:
        """Take a stepper whose slots are those of the limits; `ended` is told of each sequence that is done."""
        self.limits = limits
        self.counts = LoopCounts()
        self._stepper = stepper
        self._tokenizer = tokenizer
        self._clock = clock
        self._ended = ended
        self._table = SlotTable(stepper.slots)
        self._steps = Steps(stepper, self._table, self.counts)
        self._lock = Lock()
        self._queue = FairQueue(limits)
        self._prefilling: list[Sequence] = []
        self._decoding: list[Sequence] = []

    def show_gates(self, probe: TokenProbe) -> None:
        """Let a probe look at the gates of some steps; before the first of them."""
        self._steps.probe = probe

    @property
    def waiting(self) -> int:
        """Answers in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Answers that have a slot."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def cached_tokens(self) -> int:
        """Tokens in all slots, of answers that grow and of texts that may be needed again."""
        return sum(record.length for record in self._table.records)

    def submit(self, request: GenerateRequest, emit: Callable[[TokenEvent], None]) -> list[Sequence]:
        """Let a request wait for its turn. Its events are emitted by `turn`, on the thread that calls it.

        Raises:
            InvalidFields: the request does not fit the model.
            Overloaded: too many wait already.
        """
        request.check(self._stepper.vocabulary, self.limits.slot_tokens)
        if unknown := set(request.gates) - self._stepper.gate_names:
            raise InvalidFields(f"gates: {min(unknown)!r} is no gate output of this model", field="gates")
        best = BestOf(request, emit) if request.choices > request.n else None
        now = self._clock()
        sequences = [
            Sequence(request, choice, self._tokenizer, best or emit, now=now) for choice in range(request.choices)
        ]
        if best is not None:
            best.watch(sequences)
        with self._lock:
            try:
                self._queue.add(sequences)
            except Overloaded:
                self.counts.rejected += len(sequences)
                raise
        return sequences

    def figures(self, name: str, version: str) -> GenerationFigures:
        """Return what the loop has come to, under the names that its model has."""
        counts, records = self.counts, self._table.records
        return GenerationFigures(
            name,
            version,
            {outcome: getattr(counts, outcome) for outcome in _OUTCOMES},
            {"prompt": counts.prompt_tokens, "reused": counts.reused_tokens, "answer": counts.answer_tokens},
            {"prefill": counts.prefill_steps, "decode": counts.decode_steps},
            {
                "waiting": self.waiting,
                "running": self.running,
                "slots": len(records),
                "cached_tokens": self.cached_tokens,
                "cache_tokens": len(records) * self.limits.slot_tokens,
            },
            {spread: getattr(counts, spread) for spread in SPREADS},
        )

    def turn(self) -> bool:
        """Do one round of everything; False if nobody is left who waits or has a slot."""
        self._drop_unwanted()
        self._admit()
        self._prefill()
        self._decode()
        return bool(self.waiting or self.running)

    def fail_all(self, error: ServiceError) -> None:
        """End every sequence with an error."""
        with self._lock:
            waiting = self._queue.clear()
        for sequence in (*waiting, *self._prefilling, *self._decoding):
            self._fail(sequence, error)
        for sequence in waiting:
            self._count(sequence)
        self._sort_out()

    def _drop_unwanted(self) -> None:
        now = self._clock()
        with self._lock:
            gone, late = self._queue.sweep(now)
        for sequence in late:
            self._fail(sequence, DeadlinePassed("the time to wait was over before a slot was free"))
        running = [sequence for sequence in (*self._prefilling, *self._decoding) if sequence.is_cancelled]
        for sequence in (*gone, *running):
            sequence.drop(now)
        for sequence in (*gone, *late):
            self._count(sequence)
        self._sort_out()

    def _admit(self) -> None:
        while self._table.free:
            # Who waits for the same prompt takes it over when it has been computed.
            computed = {sequence.prompt_hash for sequence in self._prefilling}
            now = self._clock()
            with self._lock:
                sequence = self._queue.next(now, lambda s: s.prompt_hash not in computed)  # noqa: B023
            if sequence is None:
                break
            sequence.admitted = now
            known = self._table.move_in(sequence)
            self.counts.admitted += 1
            self.counts.queue_seconds.observe(now - sequence.arrived)
            self.counts.prompt_tokens += len(sequence.prompt)
            self.counts.reused_tokens += sequence.reused
            if known is None or known.logits is None:
                sequence.status = Status.PREFILLING
                self._prefilling.append(sequence)
            else:
                self._begin(sequence, known.logits)
        self._sort_out()

    def _prefill(self) -> None:
        records = self._table.records
        prompts = [
            Prompt(s.slot, records[s.slot].length, len(s.prompt) - records[s.slot].length, s.split, s.passed_over)
            for s in self._prefilling
        ]
        chunk = plan_prefill(prompts, len(self._decoding), self.limits.step_tokens)
        if chunk is None:
            return
        slots = range(chunk.first, chunk.first + len(chunk.counts))
        for sequence in self._prefilling:
            sequence.passed_over = 0 if sequence.slot in slots else sequence.passed_over + 1
        began = self._clock()
        outcomes = self._steps.prefill(chunk)
        self._queue.measured(sum(chunk.counts), self._clock() - began)
        for sequence, outcome in outcomes:
            if isinstance(outcome, ServiceError):
                self._fail(sequence, outcome)
            elif outcome is not None:
                self._begin(sequence, outcome)
        self._sort_out()

    def _decode(self) -> None:
        if not self._decoding:
            return
        for one, other in plan_exchanges({s.slot for s in self._decoding}, {s.slot for s in self._prefilling}):
            self._table.exchange(one, other)
            self.counts.exchanges += 1
        began = self._clock()
        outcomes = self._steps.decode(self._decoding)
        now = self._clock()
        self._queue.measured(len(self._decoding), now - began)
        for sequence, outcome in outcomes:
            if isinstance(outcome, ServiceError):
                self._fail(sequence, outcome)
            else:
                self._take(sequence, outcome, now)
        self._sort_out()

    def _begin(self, sequence: Sequence, logits: NDArray[np.float32]) -> None:
        """The prompt is in the cache: draw the first token."""
        sequence.status = Status.DECODING
        self._decoding.append(sequence)
        self._take(sequence, logits, self._clock())

    def _take(self, sequence: Sequence, logits: NDArray[np.float32], now: float) -> None:
        if sequence.request.max_tokens:
            self.counts.answer_tokens += 1
            if sequence.latest_token is None:
                self.counts.first_token_seconds.observe(now - sequence.arrived)
            else:
                self.counts.token_seconds.observe(now - sequence.latest_token)
        self._tell(sequence, lambda s: s.take(logits, now))

    def _fail(self, sequence: Sequence, error: ServiceError) -> None:
        now = self._clock()
        self._tell(sequence, lambda s: s.fail(error, now))

    def _tell(self, sequence: Sequence, act: Callable[[Sequence], None]) -> None:
        """Let a sequence act; whatever goes wrong with one is no concern of the others."""
        try:
            act(sequence)
        except Exception:
            _logger.exception("an answer is given up: its events could not be told")
            sequence.drop(self._clock())

    def _sort_out(self) -> None:
        """Take the slots of those that are done."""
        done = [s for s in {*self._prefilling, *self._decoding} if s.status is Status.DONE]
        self._prefilling = [s for s in self._prefilling if s.status is Status.PREFILLING]
        self._decoding = [s for s in self._decoding if s.status is Status.DECODING]
        for sequence in done:
            self._table.move_out(sequence)
            with self._lock:
                self._queue.ended(sequence)
            self._count(sequence)

    def _count(self, sequence: Sequence) -> None:
        if sequence.finish is not None:
            self.counts.completed += 1
        elif sequence.is_cancelled:
            self.counts.cancelled += 1
        elif isinstance(sequence.error, DeadlinePassed):
            self.counts.expired += 1
        else:
            self.counts.failed += 1
        self._ended(sequence)
