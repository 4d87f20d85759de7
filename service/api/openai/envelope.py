"""What stands around the choices of an answer and of each chunk of a stream."""

from collections.abc import AsyncGenerator, Iterator
from time import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.openai.fields import GenerationFields
from service.api.openai.usage import Counter
from service.api.problems import stream_error
from service.api.sse import DONE, frame, open_stream
from service.engine.generation.events import TokenEvent
from service.errors import ServiceError
from service.repository import Loaded


class Envelope:
    """Id, model, usage; it counts the tokens of the request, for the answer and for the access log."""

    def __init__(
        self,
        request: Request,
        model: Loaded,
        prefix: str,
        kind: str,
        prompts: list[list[int]],
        asked: GenerationFields,
    ) -> None:
        """Begin at the time of now; `kind` is the answer's `object`."""
        self._counter = Counter([len(prompt) for prompt in prompts])
        self._shows_usage = asked.stream_options is not None and asked.stream_options.include_usage
        self._head = {
            "id": f"{prefix}-{request.scope['state']['request_id']}",
            "object": kind,
            "created": int(time()),
            "model": model.name,
            "system_fingerprint": f"{model.version}-{model.manifest.weights_sha256[:12]}",
        }
        request.state.tokens = self._counter.counts

    def count(self, prompt: int, event: TokenEvent) -> None:
        """Book an event of an answer to the prompt of this number."""
        self._counter.count(prompt, event.token, event.timings)

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the answer."""
        return {**self._head, "choices": choices, "usage": self._counter.usage()}

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a part of the answer."""
        usage = {"usage": None} if self._shows_usage else {}
        return {**self._head, "choices": choices, **usage}

    def end(self) -> Iterator[bytes]:
        """Return the frames that end a stream."""
        if self._shows_usage:
            yield frame({**self._head, "choices": [], "usage": self._counter.usage()})
        yield DONE


async def respond(request: Request, frames: AsyncGenerator[bytes, None]) -> Response:
    """Answer by a stream whose errors have OpenAI's form."""
    return await open_stream(request, frames, _error)


def _error(error: ServiceError) -> bytes:
    return frame(stream_error(error)) + DONE
