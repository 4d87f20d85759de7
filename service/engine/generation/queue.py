"""Who waits, and who is next: by priority, then by how little a caller has had, then by arrival."""

import math
from collections.abc import Callable
from collections.abc import Sequence as Many

from service.engine.generation.limits import GenerationLimits
from service.engine.generation.sequence import Sequence
from service.errors import Overloaded

_LONGEST_RETRY_SECONDS = 60
_SMOOTHING = 0.1


class FairQueue:
    """Sequences that wait for a slot. Time comes as an argument.

    Callers share the engine evenly in tokens, not in requests: the caller to whom least was given goes first. One who
    was away does not catch up on what the others had meanwhile.
    """

    def __init__(self, limits: GenerationLimits) -> None:
        """Start empty."""
        self._limits = limits
        self._waiting: list[Sequence] = []
        self._tokens = 0
        self._given: dict[str, float] = {}
        self._floor = 0.0
        self._token_seconds = 0.0

    def __len__(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    @property
    def tokens(self) -> int:
        """Tokens that those who wait may come to."""
        return self._tokens

    def add(self, sequences: Many[Sequence]) -> None:
        """Let the choices of one request wait, or none of them.

        Raises:
            Overloaded: too many sequences or tokens would wait.
        """
        limits, cost = self._limits, sum(sequence.cost for sequence in sequences)
        if len(self._waiting) + len(sequences) > limits.queue_limit or self._tokens + cost > limits.queue_tokens:
            seconds = self._tokens * self._token_seconds
            raise Overloaded(
                f"{len(self._waiting)} answers of up to {self._tokens} tokens wait already; try again later",
                retry_after_seconds=max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(seconds))),
            )
        caller = sequences[0].request.caller
        self._given[caller] = max(self._given.get(caller, 0.0), self._floor)
        self._waiting += sequences
        self._tokens += cost

    def sweep(self, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """Take out those for whom nobody waits, and those whose time is over."""
        gone = [sequence for sequence in self._waiting if sequence.is_cancelled]
        late = [
            sequence
            for sequence in self._waiting
            if not sequence.is_cancelled and sequence.deadline is not None and sequence.deadline <= now
        ]
        for sequence in (*gone, *late):
            self._take_out(sequence)
        return gone, late

    def next(self, now: float, may_start: Callable[[Sequence], bool] = lambda sequence: True) -> Sequence | None:
        """Take out who is next among those that may start, and count its tokens as given to its caller."""
        ready = [sequence for sequence in self._waiting if may_start(sequence)]
        if not ready:
            return None
        found = min(ready, key=lambda sequence: (self._level(sequence, now), self._given[sequence.request.caller]))
        self._floor = max(self._floor, self._given[found.request.caller])
        self._given[found.request.caller] += found.cost
        self._take_out(found)
        return found

    def ended(self, sequence: Sequence) -> None:
        """A sequence that was taken out is done: what it did not use is given back to its caller."""
        if (caller := sequence.request.caller) in self._given:
            self._given[caller] -= sequence.request.max_tokens - len(sequence.answer)
        here = {waiting.request.caller for waiting in self._waiting}
        # Who waits for nothing and is not ahead of the others starts where they are in any case.
        self._given = {name: given for name, given in self._given.items() if name in here or given > self._floor}

    def measured(self, tokens: int, seconds: float) -> None:
        """So many tokens were computed in that time: the estimate of how long others should stay away."""
        if tokens:
            self._token_seconds += _SMOOTHING * (seconds / tokens - self._token_seconds)

    def clear(self) -> list[Sequence]:
        """Take all out."""
        sequences, self._waiting, self._tokens = self._waiting, [], 0
        return sequences

    def _level(self, sequence: Sequence, now: float) -> int:
        level, patience = self._limits.level(sequence.request.priority), self._limits.patience_seconds
        return level - int((now - sequence.arrived) / patience) if patience else level

    def _take_out(self, sequence: Sequence) -> None:
        self._waiting.remove(sequence)
        self._tokens -= sequence.cost
