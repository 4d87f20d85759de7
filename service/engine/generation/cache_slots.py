"""The cache of all sequences: a fixed number of slots, each with places for the tokens of one sequence.

Memory is asked for once. Keys and values lie where they are: a step reads and writes them in place. Histories are a few
tokens long and a step makes new ones from the old, so there are two sets of them that change places after each step.
Rows may be steps apart: the side of a row tells in which set its present is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest.language import CacheTensor
from service.runtime.step_session import empty_cache

Array = NDArray[Any]
Histories = tuple[Array, ...]
"""What a row remembers beside keys and values, one array for each tensor of the layout that is not in place."""

_SLOTS = -1


class CacheSlots:
    """Rows with places for `tokens` tokens each; empty at first."""

    def __init__(self, layout: Sequence[CacheTensor], rows: int, tokens: int) -> None:
        """Ask for the memory; the system gives it page by page, when it is first written."""
        self.layout = tuple(layout)
        self.rows = rows
        self.tokens = tokens
        first = [empty_cache(tensor, rows, tokens) for tensor in self.layout]
        second = [array if t.in_place else np.zeros_like(array) for t, array in zip(self.layout, first, strict=True)]
        self._sets = (first, second)
        self._sides = [0] * rows

    @property
    def nbytes(self) -> int:
        """Bytes of all slots when they are full."""
        return sum({id(array): array.nbytes for side in self._sets for array in side}.values())

    @property
    def keeps_histories(self) -> bool:
        """Whether a row remembers more than keys and values, so that it cannot be taken back to any length."""
        return not all(tensor.in_place for tensor in self.layout)

    def bring_together(self, first: int, stop: int) -> int:
        """Return the side of all rows; rows on another side than most are copied to it before."""
        sides = self._sides[first:stop]
        side = int(2 * sum(sides) > len(sides))
        for row in range(first, stop):
            if self._sides[row] != side:
                for there, here in self._pairs(side):
                    there[row] = here[row]
                self._sides[row] = side
        return side

    def step_arrays(self, first: int, stop: int, side: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return past and present of a step of these rows, by the names of the graph's tensors: views, no copies."""
        past, present = self._sets[side], self._sets[1 - side]
        return (
            {tensor.past: array[first:stop] for tensor, array in zip(self.layout, past, strict=True)},
            {tensor.present: array[first:stop] for tensor, array in zip(self.layout, present, strict=True)},
        )

    def stepped(self, first: int, stop: int) -> None:
        """A step of these rows has succeeded: its present is their past from now on."""
        for row in range(first, stop):
            self._sides[row] = 1 - self._sides[row]

    def clear(self, row: int) -> None:
        """Begin a text: no history. Keys and values need not be cleared, nothing reads behind a row's tokens."""
        for array, _ in self._pairs(self._sides[row]):
            array[row] = 0

    def histories(self, row: int) -> Histories:
        """Return a copy of the row's histories."""
        return tuple(array[row].copy() for array, _ in self._pairs(self._sides[row]))

    def restore(self, row: int, histories: Histories) -> None:
        """Give a row the histories of another time or row."""
        for (array, _), history in zip(self._pairs(self._sides[row]), histories, strict=True):
            array[row] = history

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Give a row the keys and values of another's first `tokens` tokens; its histories stay."""
        for there, here in zip(self._used(target, tokens), self._used(source, tokens), strict=True):
            there[...] = here

    def exchange(self, one: int, other: int, tokens: tuple[int, int]) -> None:
        """Let two rows change places, of which they have filled so many `tokens`."""
        kept, histories = self.histories(one), self.histories(other)
        self.restore(one, histories)
        self.restore(other, kept)
        held = [array.copy() for array in self._used(one, tokens[0])]
        self.copy(other, one, tokens[1])
        for there, here in zip(self._used(other, tokens[0]), held, strict=True):
            there[...] = here

    def _pairs(self, side: int) -> list[tuple[Array, Array]]:
        """Return the arrays of histories: of this side, and of the other."""
        here, there = self._sets[side], self._sets[1 - side]
        return [(a, b) for tensor, a, b in zip(self.layout, here, there, strict=True) if not tensor.in_place]

    def _used(self, row: int, tokens: int) -> list[Array]:
        """Return what a row's first tokens have in the arrays that are written in place: views."""
        used = slice(0, tokens)
        return [
            array[row][tuple(used if size == _SLOTS else slice(None) for size in tensor.shape)]
            for tensor, array in zip(self.layout, self._sets[0], strict=True)
            if tensor.in_place
        ]
