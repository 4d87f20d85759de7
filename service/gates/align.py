"""Which positions of two inputs belong together."""

from collections.abc import Sequence


def align(first: Sequence[int], second: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of two token sequences that hold equal tokens, counted from both ends.

    What differs is in the middle and has no partner: nothing is stretched or guessed.
    """
    shorter = min(len(first), len(second))
    head = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    left = shorter - head
    tail = next((i for i in range(left) if first[-1 - i] != second[-1 - i]), left)
    ends_first, ends_second = range(len(first) - tail, len(first)), range(len(second) - tail, len(second))
    return (*range(head), *ends_first), (*range(head), *ends_second)
