"""What the rewrites did at each token of an answer, told along with it."""

from typing import Any

import numpy as np
from starlette.requests import Request

from service.api.openai.fields import GenerationFields
from service.api.openai.prompts import token_name, tokenizer_or_none
from service.api.state import state_of
from service.engine.generation.events import TokenEvent
from service.errors import Forbidden, ResultTooLarge
from service.gates.frames import Frames, GatesField
from service.gates.quantities import CHANNEL, QUANTITIES
from service.repository import Loaded
from service.text import TextTokenizer


class AnswerGates:
    """The member `gates` of every choice of one request.

    A stream tells it in parts, as they come; `tokens` then go on where the last part ended.
    """

    def __init__(
        self,
        request: Request,
        model: Loaded,
        asked: GatesField,
        prompts: list[list[int]],
        tokenizer: TextTokenizer | None,
    ) -> None:
        """Check what is asked for.

        Raises:
            Forbidden: the caller may not see gates.
            UnknownQuantity, QuantityNotDefined, CaptureUnavailable: the model does not tell that.
        """
        if "gates" not in request.state.caller.scopes:
            raise Forbidden("the field gates needs the scope 'gates'", scope="gates", field="gates")
        self._limit = state_of(request).settings.json_cells
        self._model = model
        self._asked = asked
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._plan = Frames.plan(model.manifest, asked)
        self._frames: dict[int, Frames] = {}
        self._counts: dict[int, int] = {}

    @property
    def options(self) -> dict[str, Any]:
        """What the engine is asked for."""
        return {"gates": self._plan.outputs, "prompt_gates": self._plan.whole_prompt}

    def check_size(self, max_tokens: int, choices: int, *, stream: bool) -> None:
        """Refuse an answer with too many numbers, before it is computed.

        Raises:
            ResultTooLarge: it may have more than are written as JSON.
        """
        gates = self._model.manifest.gates
        assert gates is not None, "the plan was made of it"
        names = self._plan.meta([], [])["quantities"]
        channels = sum(gates.value_channels if QUANTITIES[name].axes == CHANNEL else 1 for name in names)
        prompt = sum(map(len, self._prompts)) if self._asked.prompt == "full" else 0
        answer = 0 if stream else len(self._prompts) * (max_tokens // self._asked.every + 1)
        cells = len(gates.sites) * channels * choices * (prompt + answer)
        if cells > self._limit:
            raise ResultTooLarge(
                f"gates may come to {cells} numbers, at most {self._limit} are written: ask for fewer quantities, "
                "shorter answers, a larger 'every', prompt='summary', or stream=true",
                field="gates",
                cells=cells,
                limit_cells=self._limit,
            )

    def member(self, index: int, prompt: int, event: TokenEvent) -> dict[str, Any]:
        """Return what an event adds to the gates of the choice `index`."""
        found: dict[str, Any] = {}
        frames = self._frames.get(index)
        if frames is None:
            frames = self._frames[index] = Frames.plan(self._model.manifest, self._asked)
            ids = self._prompts[prompt]
            found["meta"] = frames.meta(ids, [token_name(self._tokenizer, token) for token in ids])
            if event.gates is not None:
                found["prefill"] = frames.prefill(event.gates.first, event.gates.values)
        if event.gates is not None and event.token is not None:
            place = self._counts.get(index, 0)
            self._counts[index] = place + 1
            told = frames.token(event.gates.first, event.gates.values)
            if told is not None:
                values = {name: np.ascontiguousarray(array) for name, array in told.items()}
                found["tokens"] = [{"index": place, "id": event.token, "gates": values}]
        if event.finish is not None:
            found["summary"] = frames.summary()
        return found


def plan_gates(
    request: Request, model: Loaded, asked: GenerationFields, prompts: list[list[int]], max_tokens: int
) -> AnswerGates | None:
    """Return what tells of the gates, if that is asked for; see `AnswerGates`.

    Raises:
        ResultTooLarge: it may be too much.
    """
    if asked.gates is None:
        return None
    gates = AnswerGates(request, model, asked.gates, prompts, tokenizer_or_none(model.language))
    gates.check_size(max_tokens, asked.n or 1, stream=bool(asked.stream))
    return gates


def add_gates(known: dict[str, Any], part: dict[str, Any]) -> None:
    """Put a part of a choice's gates to those that came before."""
    known.setdefault("tokens", []).extend(part.pop("tokens", []))
    known.update(part)
