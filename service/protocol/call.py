"""One inference request after decoding: arrays that fit the model, and how its answer is to be written."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview
"""What a body comes in."""

Parameter = str | int | float | bool | None
"""A value of a `parameters` object."""


class OutputWish(NamedTuple):
    """An output that is asked for: `binary` behind the answer's JSON, or its `classes` best classes if above 0."""

    name: str
    binary: bool = False
    classes: int = 0


class Limits(NamedTuple):
    """What one request may ask: rows on the first axis, and numbers that are written as JSON."""

    max_rows: int
    json_cells: int


@dataclass(slots=True)
class InferCall:
    """A decoded request; its feeds have passed every check against the model's manifest.

    `rows` is the length of the first axis of every feed, or 1 where the graph's first axes are not rows. `priority` 0
    is the model's default, 1 the first to run. `timeout_seconds` counts from the request's arrival; None is the
    model's default. `parameters` are those of the request, as they came.
    """

    feeds: dict[str, NDArray[Any]]
    rows: int
    outputs: tuple[OutputWish, ...]
    id: str | None = None
    priority: int = 0
    timeout_seconds: float | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Outputs that the graph must compute, each once, in the order in which they are answered."""
        return tuple([wish.name for wish in self.outputs])


class Encoded(NamedTuple):
    """An answer: its body in parts that follow each other, and what the headers must say of it.

    `header_length` is the length of the JSON in front of binary tensors; None if the whole body is JSON.
    """

    parts: tuple[bytes, ...]
    content_type: bytes
    header_length: int | None

    @property
    def body(self) -> bytes:
        """The parts in one piece."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
