"""What the engine is asked for besides what its callers want: outputs of some runs, for statistics."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class Probe(Protocol):
    """Looks at some of the runs of one model. Called from any thread; a method never raises."""

    def outputs(self) -> tuple[str, ...]:
        """Return the outputs that the next run should compute too; most of the time there are none."""
        ...

    def take(self, values: Mapping[str, NDArray[Any]], rows: int, seconds: float) -> None:
        """Look at those outputs of a run that took `seconds`; rows after the first `rows` are padding."""
        ...


class TokenProbe(Probe, Protocol):
    """The same for steps of a language model, whose rows have tokens of their own."""

    def take_tokens(
        self, values: Mapping[str, NDArray[Any]], counts: Sequence[int], sequences: Sequence[int], seconds: float
    ) -> None:
        """Look at a step: row i has `counts[i]` tokens, none where it is idle, of the text numbered `sequences[i]`."""
        ...
