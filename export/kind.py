"""What the pipeline asks of a kind of network: `image_bundle` and `language.bundle` answer it, one module each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from torch import Tensor

from ddl_model.checkpoint import Checkpoint
from ddl_model.delta_resnet import DeltaResNet
from ddl_model.image_classifier import ImageClassifier
from ddl_model.language_model import LanguageModel
from export.trace import ExportedGraph
from service.bundle import Gates, Graph, Task

MODEL = "model"
"""The graph that every bundle has: from whole inputs to answers."""

STEP = "step"
"""The graph that continues texts with a cache."""


@dataclass(frozen=True)
class Run:
    """One run of a graph: what goes in, and what must come out of the outputs that are looked at."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Script:
    """Runs of one graph in a row.

    `carried` names outputs, and the inputs of the next run that they become; `start` is what the first run gets for
    these inputs.
    """

    runs: tuple[Run, ...]
    carried: Mapping[str, str] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """Inputs to measure a bundle on, in batches, and what each image or each token of them should be answered with.

    Each answer is over `classes`, which are tokens of the vocabulary for a text. Labels (rows) or (rows, tokens) are
    None where they are not known, and negative where an input counts for nothing.
    `token_bytes` (vocabulary) tells how many bytes of text each token stands for.
    """

    data: str
    unit: Literal["images", "tokens"]
    classes: int
    batches: Sequence[Callable[[], tuple[Tensor, Tensor | None]]]
    token_bytes: Tensor | None = None


class Kind(Protocol):
    """A network of one kind, ready to become a bundle."""

    @property
    def model(self) -> ImageClassifier | DeltaResNet | LanguageModel:
        """The network, in eval mode."""
        ...

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the network is from."""
        ...

    @property
    def input(self) -> str:
        """Name of the only input of `MODEL` that is needed; its answers are the output `logits`."""
        ...

    def refusal(self) -> str | None:
        """Say which field of the config cannot be exported, or None."""
        ...

    def lacks(self) -> list[str]:
        """Say what the bundle will not be able to do, and why."""
        ...

    def graphs(self) -> dict[str, ExportedGraph]:
        """Trace every graph, `MODEL` first.

        Raises:
            RuntimeError: torch cannot export the model.
        """
        ...

    def scripts(self) -> dict[str, Script]:
        """Return what each graph is to be held to: golden inputs, and what torch makes of them."""
        ...

    def task(self, graphs: Mapping[str, Graph], tolerance: float) -> Task:
        """Describe what the bundle does; its graphs answer as recorded within `tolerance`."""
        ...

    def gates(self) -> Gates | None:
        """Describe the rewrites, if the network has any."""
        ...

    def descriptions(self) -> dict[str, str]:
        """Return a few words about inputs and outputs whose names do not say it all."""
        ...

    def files(self) -> dict[str, bytes]:
        """Return further files of the bundle."""
        ...

    def card(self) -> dict[str, str]:
        """Return lines for the model card: what stands before the colon and what after it; `summary` is a sentence."""
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Return what torch answers in float32, the classes or tokens on the last axis."""
        ...

    def held_out(self, source: Path | None, limit: int) -> HeldOut:
        """Read at most `limit` images or tokens from a path, or take the checkpoint's own samples if it is None.

        Raises:
            DataError: there is nothing to measure on.
        """
        ...

    def in_half(self) -> Self:
        """Return the same network in float16; what it takes and gives stays float32, but for its cache.

        Raises:
            ValueError: the network has no such form.
        """
        ...
