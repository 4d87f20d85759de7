"""What each slot's cache holds, and which of it a new prompt may take over instead of being computed.

Keys and values of a text's first tokens serve every text that begins with them. Histories do not: they are those of
one length. Where a model has histories they are kept at a few lengths, the marks, and only those can be gone back to.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MOST_MARKS = 4
"""Marks of a slot; beyond them the shortest is given up."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The state after some first tokens: histories, and the logits that follow if they were computed."""

    histories: tuple[NDArray[Any], ...]
    logits: NDArray[np.float32] | None = None


@dataclass(slots=True)
class SlotRecord:
    """The tokens whose keys and values a slot holds, `length` of them, and the marks by their lengths."""

    tokens: Ints
    length: int = 0
    marks: dict[int, Mark] = field(default_factory=dict)
    is_taken: bool = False
    used_at: int = 0

    def append(self, tokens: Sequence[int] | Ints) -> None:
        """The slot has taken more tokens."""
        self.tokens[self.length : self.length + len(tokens)] = tokens
        self.length += len(tokens)

    def cut(self, length: int) -> None:
        """Forget what is behind the first `length` tokens."""
        self.length = length
        self.marks = {at: mark for at, mark in self.marks.items() if at <= length}

    def mark(self, mark: Mark) -> None:
        """Remember the state after all its tokens."""
        if self.length not in self.marks and len(self.marks) >= MOST_MARKS:
            del self.marks[min(self.marks)]
        self.marks[self.length] = mark

    def copy_from(self, other: "SlotRecord", length: int) -> None:
        """Hold what another slot holds of its first `length` tokens."""
        self.tokens[:length] = other.tokens[:length]
        self.marks = dict(other.marks)
        self.cut(length)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The longest beginning of a prompt that a slot can give.

    `slot` is -1 where there is none. `shared` is how far some slot's tokens agree, though perhaps no mark is there.
    """

    slot: int
    length: int
    mark: Mark | None
    shared: int


def find_prefix(records: Iterable[SlotRecord], prompt: Ints, *, needs_marks: bool, most: int | None = None) -> Prefix:
    """Look for a prompt's beginning in all slots.

    At least one token is left to be computed, for its logits; only a mark that has them gives a whole prompt. `most`
    is how many tokens may be taken over; None is any number.
    """
    most = len(prompt) if most is None else most
    slot, length, shared = -1, 0, 0
    found: Mark | None = None
    for number, record in enumerate(records):
        common = common_length(record.tokens[: record.length], prompt)
        shared = max(shared, common)
        if common <= length:
            continue
        whole = record.marks.get(len(prompt)) if common == len(prompt) <= most else None
        if whole is not None and whole.logits is not None:
            return Prefix(number, common, whole, common)
        end = min(common, len(prompt) - 1, most)
        usable = max((at for at in record.marks if at <= end), default=0) if needs_marks else end
        if usable > length:
            slot, length, found = number, usable, record.marks.get(usable)
    return Prefix(slot, length, found, shared)


def common_length(one: Ints, other: Ints) -> int:
    """Return how many first tokens two texts have in common."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size


def choose_slot(records: Sequence[SlotRecord], prefix: Prefix) -> int:
    """Return the free slot for a new text: the one that gives the prefix and nothing else, or the longest unused.

    A slot that holds more than the prefix is copied from and kept, as long as another is free.
    """
    if prefix.slot >= 0:
        donor = records[prefix.slot]
        if not donor.is_taken and donor.length == prefix.length:
            return prefix.slot
    free = [number for number, record in enumerate(records) if not record.is_taken]
    return min(free, key=lambda number: (records[number].used_at, number))
