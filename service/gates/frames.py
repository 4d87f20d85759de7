"""Gates along with generated tokens: frames for streams, the same numbers as a trace of the whole text gives."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.bundle import Gates, Manifest
from service.errors import CaptureUnavailable
from service.gates.answer import tensor
from service.gates.quantities import PRESETS, QUANTITIES, find_quantities, streams
from service.gates.reductions import Reduction, reduce_all
from service.gates.selection import Selection
from service.gates.step import FORMULAS, Captured

SCHEMA = "ddl.gates/1"


class GatesField(BaseModel):
    """The field `gates` of a request that generates: which quantities come with each `every`-th token.

    Of the prompt come the tensors (`full`), reductions of them (`summary`), or nothing.
    """

    model_config = ConfigDict(extra="forbid")

    quantities: str | list[str] = "core"
    prompt: Literal["none", "summary", "full"] = "summary"
    every: int = Field(default=1, ge=1, le=10_000)

    @model_validator(mode="before")
    @classmethod
    def _changes_nothing(cls, given: Any) -> Any:
        if isinstance(given, dict) and "interventions" in given:
            raise PydanticCustomError(
                "interventions",
                "texts are continued with the gates as they are; "
                "POST /v1/models/NAME/gates takes interventions on a whole text",
            )
        return given


class Frames:
    """What is asked of the gates of one answer, and the frames that tell of them. Not for several answers at once."""

    def __init__(self, gates: Gates, asked: GatesField, quantities: tuple[str, ...]) -> None:
        """Start before the first token."""
        self._gates = gates
        self._asked = asked
        self._quantities = quantities
        self._captured = tuple(sorted({name for quantity in quantities for name in QUANTITIES[quantity].needs}))
        self._tokens = 0
        self._sums: dict[str, NDArray[np.float64]] = {}

    @classmethod
    def plan(cls, manifest: Manifest, asked: GatesField) -> "Frames":
        """Check what is asked for.

        Raises:
            UnknownQuantity, QuantityNotDefined: there is no such quantity.
            CaptureUnavailable: it needs more than the outputs of one step, or the bundle has no gate outputs.
        """
        gates = manifest.gates
        if gates is None or not gates.outputs:
            raise CaptureUnavailable(f"{manifest.name!r} was exported without gate outputs; predictions work")
        words = [asked.quantities] if isinstance(asked.quantities, str) else asked.quantities
        # Of a preset, only what can come along: what is asked for by name must.
        spread = [[name for name in PRESETS[word] if streams(name)] if word in PRESETS else [word] for word in words]
        names = find_quantities([name for part in spread for name in part], gates)
        for name in names:
            if not streams(name):
                raise CaptureUnavailable(f"{name!r} does not come with generated tokens: trace the whole text for it")
        return cls(gates, asked, names)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of a step that are needed."""
        return tuple(output for name in self._captured for output in self._gates.outputs[name])

    @property
    def whole_prompt(self) -> bool:
        """Whether the gates of every token of the prompt are needed."""
        return self._asked.prompt != "none"

    def meta(self, prompt_ids: Sequence[int], texts: Sequence[str | None]) -> dict[str, Any]:
        """Return the frame in front of all: sites, quantities, the tokens of the prompt."""
        return {
            "schema": SCHEMA,
            "sites": [site.model_dump() for site in self._gates.sites],
            "quantities": list(self._quantities),
            "prompt_tokens": {"ids": list(prompt_ids), "text": list(texts)},
        }

    def prefill(self, first: int, values: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
        """Return the frame of the prompt from the rows of the first event, or None if nothing of it is wanted."""
        if self._asked.prompt == "none":
            return None
        found = self._compute(values)
        if self._asked.prompt == "full":
            return {"position_offset": first, "tensors": {name: tensor(name, array) for name, array in found.items()}}
        places = tuple(range(first, first + next(iter(found.values())).shape[1]))
        ops = [Reduction(op="mean"), Reduction(op="quantile")] + ([Reduction(op="regimes")] if "beta" in found else [])
        return {"reductions": reduce_all(ops, found, Selection(self._gates.sites, places), None)}

    def token(self, first: int, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]] | None:
        """Return the gates of the last of these positions, (site, ...) by quantity; None where `every` skips it.

        They are those of the position whose logits the token came from.
        """
        found = {name: array[:, -1] for name, array in self._compute(values).items()}
        self._tokens += 1
        for name, array in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + array.astype(np.float64)
        return found if (self._tokens - 1) % self._asked.every == 0 else None

    def summary(self) -> dict[str, Any]:
        """Return the means over all tokens so far, (site, ...) by quantity."""
        means = {name: np.asarray(total / self._tokens, np.float32) for name, total in self._sums.items()}
        return {"tokens": self._tokens, "mean": means}

    def _compute(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        outputs = self._gates.outputs
        stacks = {name: np.stack([values[output] for output in outputs[name]]) for name in self._captured}
        forms = Captured(stacks, self._gates.direction_eps, self._gates.update_rule)
        with np.errstate(all="ignore"):
            return {name: np.ascontiguousarray(FORMULAS[name](forms), np.float32) for name in self._quantities}
