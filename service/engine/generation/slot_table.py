"""Who has which slot: sequences move in, with as much of their prompt as the cache already holds, and out again."""

import numpy as np

from service.engine.generation.cache_slots import CacheSlots
from service.engine.generation.prefixes import Mark, SlotRecord, choose_slot, find_prefix
from service.engine.generation.sequence import Sequence

_WORTH_A_SPLIT = 16
"""Shared tokens for which a prompt is computed in two chunks, so that the next one that shares them finds a mark."""


class SlotTable:
    """The slots of a cache, what they hold, and the sequences that have them.

    A slot that becomes free keeps what it holds until another sequence needs it.
    """

    def __init__(self, cache: CacheSlots) -> None:
        """Start with free and empty slots."""
        self.cache = cache
        self.records = [SlotRecord(np.zeros(cache.tokens, np.int64)) for _ in range(cache.rows)]
        self.owners: list[Sequence | None] = [None] * cache.rows
        self._uses = 0

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self.owners.count(None)

    def owner(self, slot: int) -> Sequence:
        """Return the sequence that has a slot, which is not free."""
        found = self.owners[slot]
        assert found is not None, "only slots of sequences are computed"
        return found

    def move_in(self, sequence: Sequence) -> Mark | None:
        """Give a sequence a free slot; returns the state after its whole prompt if that is known already."""
        prefix = find_prefix(
            self.records, sequence.prompt, needs_marks=self.cache.keeps_histories, most=sequence.reusable
        )
        slot = choose_slot(self.records, prefix)
        record = self.records[slot]
        if prefix.slot in (slot, -1):
            record.cut(prefix.length)
        else:
            self.cache.copy(prefix.slot, slot, prefix.length)
            record.copy_from(self.records[prefix.slot], prefix.length)
        if prefix.mark is None:
            self.cache.clear(slot)
        else:
            self.cache.restore(slot, prefix.mark.histories)
        record.is_taken = True
        self.owners[slot] = sequence
        sequence.slot = slot
        sequence.reused = prefix.length
        # Texts that are scored from some token on are mostly endings of one beginning: the first keeps it for the next.
        shared = sequence.reusable if sequence.score is not None else prefix.shared
        can_be_split = self.cache.keeps_histories and shared >= prefix.length + _WORTH_A_SPLIT
        sequence.split = shared if can_be_split and shared < len(sequence.prompt) else 0
        return prefix.mark if prefix.length == len(sequence.prompt) else None

    def move_out(self, sequence: Sequence) -> None:
        """Free the slot of a sequence. What it holds can be gone back to, unless something went wrong with it."""
        record = self.records[sequence.slot]
        if sequence.error is not None:
            record.cut(0)
        if record.length and record.length not in record.marks:
            record.mark(Mark(self.cache.histories(sequence.slot)))
        self._uses += 1
        record.used_at = self._uses
        record.is_taken = False
        self.owners[sequence.slot] = None
        sequence.slot = -1

    def exchange(self, one: int, other: int) -> None:
        """Let two slots change places, with all that they hold."""
        records, owners = self.records, self.owners
        self.cache.exchange(one, other, (records[one].length, records[other].length))
        records[one], records[other] = records[other], records[one]
        owners[one], owners[other] = owners[other], owners[one]
        for slot in (one, other):
            if (owner := owners[slot]) is not None:
                owner.slot = slot
