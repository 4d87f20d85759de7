"""Steps of sequences: what a chunk or a decode step computes for each, and whose fault it is if it cannot."""

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Many
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.counts import LoopCounts
from service.engine.generation.prefixes import Mark
from service.engine.generation.scheduler import Chunk
from service.engine.generation.sequence import Sequence
from service.engine.generation.slot_table import SlotTable
from service.engine.generation.stepper import Stepper
from service.errors import ServiceError
from service.gates.live.probe import TokenProbe

Logits = NDArray[np.float32]

_logger = logging.getLogger(__name__)


class Steps:
    """Runs the steps of the sequences in a table, and keeps its records. A step that fails is repeated row by row."""

    def __init__(self, stepper: Stepper, table: SlotTable, counts: LoopCounts) -> None:
        """Take the table of the stepper's slots."""
        self._stepper = stepper
        self._table = table
        self._counts = counts
        self.probe: TokenProbe | None = None
        """Who looks at the gates of some steps."""

    def prefill(self, chunk: Chunk) -> list[tuple[Sequence, Logits | ServiceError | None]]:
        """Compute parts of prompts. Those that come to their end get logits (vocabulary,), the others None."""
        table = self._table
        rows: list[tuple[Sequence, list[int], bool | range]] = []
        for slot, count in enumerate(chunk.counts, chunk.first):
            sequence, length = table.owner(slot), table.records[slot].length
            part = sequence.prompt[length : length + count].tolist()
            is_end = length + count == len(sequence.prompt)
            rows.append((sequence, part, is_end if sequence.score is None else sequence.score.columns(length, count)))
        parts, ends, gates = [part for _, part, _ in rows], [end for *_, end in rows], _gates_of(s for s, *_ in rows)
        looked_at, start = self._looked_at(), perf_counter()
        both = _both(gates, looked_at)
        try:
            logits = self._stepper.prefill(chunk.first, parts, table.records[chunk.first].length, ends, both)
        except ServiceError as error:
            if len(rows) == 1:
                return [(rows[0][0], error)]
            _warn(error)
            alone = (Chunk(slot, (count,)) for slot, count in enumerate(chunk.counts, chunk.first))
            return [outcome for part in alone for outcome in self.prefill(part)]
        self._counts.prefill_steps += 1
        self._show(looked_at, chunk.counts, [sequence for sequence, *_ in rows], start)
        told = 0
        outcomes: list[tuple[Sequence, Logits | ServiceError | None]] = []
        for row, (sequence, part, end) in enumerate(rows):
            record = table.records[sequence.slot]
            begin, begin_row = record.length, told
            record.append(part)
            told += len(end) if isinstance(end, range) else end
            if sequence.score is not None and isinstance(end, range):
                sequence.score.take(begin + end.start, logits[begin_row:told])
            sequence.keep_gates(begin, {name: self._stepper.gates[name][row, : len(part)] for name in gates})
            is_end = record.length == len(sequence.prompt)
            # A copy: else one row would hold on to those of all.
            own = logits[told - 1].copy() if is_end else None
            if is_end or record.length == sequence.split:
                record.mark(Mark(table.cache.histories(sequence.slot), own))
            outcomes.append((sequence, own))
        return outcomes

    def decode(self, sequences: Many[Sequence]) -> list[tuple[Sequence, Logits | ServiceError]]:
        """Compute what follows the last token of each answer: logits (vocabulary,), good until the next step."""
        first, last = min(s.slot for s in sequences), max(s.slot for s in sequences)
        records, rows = self._table.records, last + 1 - first
        tokens, counts = [0] * rows, [0] * rows
        for sequence in sequences:
            tokens[sequence.slot - first] = sequence.answer[-1]
            counts[sequence.slot - first] = 1
        lengths = [record.length for record in records[first : last + 1]]
        gates, looked_at, start = _gates_of(sequences), self._looked_at(), perf_counter()
        try:
            logits = self._stepper.decode(tokens, lengths, counts, first, _both(gates, looked_at))
        except ServiceError as error:
            if len(sequences) == 1:
                return [(sequences[0], error)]
            _warn(error)
            return [outcome for sequence in sequences for outcome in self.decode([sequence])]
        self._show(looked_at, counts, self._table.owners[first : last + 1], start)
        self._counts.decode_steps += 1
        self._counts.decode_rows += len(sequences)
        self._counts.step_rows.observe(len(sequences))
        for sequence in sequences:
            record, row = records[sequence.slot], sequence.slot - first
            if gates:
                sequence.keep_gates(record.length, {name: self._stepper.gates[name][row] for name in gates})
            record.append((sequence.answer[-1],))
        return [(sequence, logits[sequence.slot - first]) for sequence in sequences]

    def _looked_at(self) -> tuple[str, ...]:
        return () if self.probe is None else self.probe.outputs()

    def _show(
        self, looked_at: tuple[str, ...], counts: Many[int], sequences: Many[Sequence | None], start: float
    ) -> None:
        """Let the probe see the step that has just been run."""
        if self.probe is not None and looked_at:
            values = {name: self._stepper.gates[name] for name in looked_at}
            self.probe.take_tokens(values, counts, [id(sequence) for sequence in sequences], perf_counter() - start)


def _both(gates: tuple[str, ...], looked_at: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*gates, *looked_at})) if looked_at else gates


def _gates_of(sequences: Iterable[Sequence]) -> tuple[str, ...]:
    """Return the gate outputs that some of the sequences want."""
    return tuple(sorted({name for sequence in sequences for name in sequence.request.gates}))


def _warn(error: ServiceError) -> None:
    _logger.warning("a step failed, its rows run alone", extra={"fields": {"error": str(error)}})
