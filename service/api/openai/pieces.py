"""From events to answers: put together to one body, or one frame after the other."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Protocol

from service.api.openai.envelope import Envelope
from service.api.openai.fields import GenerationFields
from service.api.openai.gates import AnswerGates, add_gates
from service.api.openai.running import merged
from service.api.openai.usage import timings_member
from service.api.sse import frame
from service.engine.generation.engine import Stream
from service.engine.generation.events import TokenEvent
from service.repository import Loaded


class Pieces(Protocol):
    """Turns the events of one request into parts of its choices."""

    def piece(self, prompt: int, event: TokenEvent) -> dict[str, Any]:
        """Return what an event adds to its choice: see `make_piece`."""
        ...

    def choice(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Return how an answer in one piece shows a choice, all of whose pieces have been added up."""
        ...

    def parts(self, piece: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Return how a stream shows a piece, in no part, one or several."""
        ...


def make_piece(
    asked: GenerationFields,
    gates: AnswerGates | None,
    place: tuple[int, int],
    event: TokenEvent,
    text: str,
    logprobs: dict[str, list[Any]] | None,
) -> dict[str, Any]:
    """Return a piece of the choice at `place`, its index in the answer and that of its prompt."""
    index, prompt = place
    piece: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": event.finish}
    if asked.timings and event.timings is not None:
        piece["timings"] = timings_member(event.timings)
    if gates is not None:
        piece["gates"] = gates.member(index, prompt, event)
    return piece


def tells(piece: dict[str, Any]) -> bool:
    """Tell whether there is anything in a piece that its reader waits for."""
    has_more = piece["logprobs"] is not None or piece["finish_reason"] is not None
    return has_more or bool(piece["text"]) or bool(piece.get("gates"))


async def whole(streams: list[Stream], envelope: Envelope, pieces: Pieces) -> dict[str, Any]:
    """Return the answer when all of it has come."""
    choices: dict[int, dict[str, Any]] = {}
    async with aclosing(merged(streams)) as events:
        async for prompt, event in events:
            envelope.count(prompt, event)
            piece = pieces.piece(prompt, event)
            known = choices.setdefault(piece["index"], piece)
            if known is not piece:
                _add(known, piece)
    return envelope.whole([pieces.choice(choice) for _, choice in sorted(choices.items())])


async def frames(
    model: Loaded, streams: list[Stream], envelope: Envelope, pieces: Pieces
) -> AsyncGenerator[bytes, None]:
    """Tell of each event as it comes; the model stays until the last one."""
    with model.in_use():
        async with aclosing(merged(streams)) as events:
            async for prompt, event in events:
                envelope.count(prompt, event)
                for part in pieces.parts(pieces.piece(prompt, event)):
                    yield frame(envelope.chunk([part]))
        for last in envelope.end():
            yield last


def _add(known: dict[str, Any], piece: dict[str, Any]) -> None:
    known["text"] += piece["text"]
    for name, values in (known["logprobs"] or {}).items():
        values += piece["logprobs"][name]
    if "gates" in piece:
        add_gates(known["gates"], piece["gates"])
    known.update({name: piece[name] for name in ("finish_reason", "timings") if name in piece})
